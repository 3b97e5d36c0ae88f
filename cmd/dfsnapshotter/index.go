package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// tocAnnotation is how a manifest names the TOC of an eStargz or zstd:chunked
// layer.
const tocAnnotation = "containerd.io/snapshot/stargz/toc.digest"

func indexCommand() *cobra.Command {
	cmd := daemon.Group("index", "Build, show and check the indexes that make layers readable at random")
	cmd.AddCommand(indexBuild(), indexInspect(), indexVerify())
	return cmd
}

func indexBuild() *cobra.Command {
	var out, toc string
	cmd := &cobra.Command{
		Use:   "build LAYER",
		Short: "Index a layer blob: tar, gzip or zstd; with --toc-digest eStargz or zstd:chunked",
		Args:  daemon.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				out = args[0] + ".index"
			}
			if err := buildIndex(cmd, args[0], out, toc); err != nil {
				return fmt.Errorf("index %s: %w", args[0], err)
			}
			return inspect(cmd.OutOrStdout(), out, false)
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "where to write the index (default LAYER.index)")
	cmd.Flags().StringVar(&toc, "toc-digest", "", "digest of the layer's TOC, as the manifest's annotation names it; the index is then made from the TOC alone")
	return cmd
}

func buildIndex(cmd *cobra.Command, path, out, toc string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	blob, size, err := digestOf(f)
	if err != nil {
		return err
	}
	if toc == "" {
		_, err = index.Build(cmd.Context(), out, f, index.Options{Blob: blob, Size: size})
		return err
	}
	_, err = index.FromTOC(cmd.Context(), out, f, index.TOCOptions{
		Blob: blob, Size: size, Annotations: map[string]string{tocAnnotation: toc},
	})
	return err
}

// digestOf reads f once and rewinds it.
func digestOf(f *os.File) (digest.Digest, int64, error) {
	d := digest.Canonical.Digester()
	n, err := io.Copy(d.Hash(), f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	return d.Digest(), n, err
}

func indexInspect() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use: "inspect INDEX", Short: "Show what an index holds", Args: daemon.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspect(cmd.OutOrStdout(), args[0], list)
		},
	}
	cmd.Flags().BoolVarP(&list, "list", "l", false, "list the tree as well")
	return cmd
}

func inspect(w io.Writer, path string, list bool) error {
	x, err := index.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }()
	if err := printInfo(w, path, x); err != nil || !list {
		return err
	}
	return printTree(w, x, 1)
}

func printInfo(w io.Writer, path string, x *index.Index) error {
	i := x.Info()
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	packed, err := indexes.Write(io.Discard, x)
	if err != nil {
		return err
	}
	share := func(n int64) string {
		return fmt.Sprintf("%d bytes (%.2f %% of the blob)", n, 100*float64(n)/float64(max(i.BlobSize, 1)))
	}
	diffID := string(i.DiffID)
	if diffID == "" {
		diffID = "(not proven: made from a TOC)"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range [][2]any{
		{"index ID", i.ID},
		{"version", i.Version},
		{"file", fmt.Sprintf("%s, %s", path, share(fi.Size()))},
		{"packed", share(packed.Pack.Size)},
		{"before the first read", share(packed.Head)},
		{"blob", fmt.Sprintf("%s, %d bytes, %s", i.Blob, i.BlobSize, i.Kind)},
		{"diffID", diffID},
		{"read at random", i.Seekable},
		{"inodes", i.Inodes},
		{"content", fmt.Sprintf("%d bytes in %d chunks", i.Bytes, i.Chunks)},
		{"spans", i.Spans},
		{"extended attributes", i.Xattrs},
		{"prefetch", fmt.Sprintf("%d bytes", i.Prefetch)},
	} {
		_, _ = fmt.Fprintf(t, "%s\t%v\n", row[0], row[1])
	}
	return t.Flush()
}

func printTree(w io.Writer, x *index.Index, dir uint32) error {
	for i := range x.Entries(dir) {
		_, ino := x.Entry(dir, i)
		in, _ := x.Inode(ino)
		if _, err := fmt.Fprintf(w, "%06o %d:%d %12d %s\n", in.Mode, in.UID, in.GID, in.Size, x.Path(ino)); err != nil {
			return err
		}
		if err := printTree(w, x, ino); err != nil {
			return err
		}
	}
	return nil
}

func indexVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify INDEX LAYER", Short: "Check every chunk of a layer blob against its index", Args: daemon.Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			x, err := index.Open(args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, x.Close()) }()
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			if err := index.Verify(cmd.Context(), x, f); err != nil {
				return fmt.Errorf("%s does not fit %s: %w", args[1], args[0], err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return err
		},
	}
}
