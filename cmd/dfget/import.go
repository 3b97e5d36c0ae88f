package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

// imported is a blob that was brought.
type imported struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

func cacheImport() *cobra.Command {
	var in importer
	var images, asJSON bool
	cmd := &cobra.Command{
		Use: "import FILE...", Short: "Bring files, or all blobs of image archives, into the cache",
		Long: `Each FILE becomes a blob by the name of its SHA-256, which is printed. With --image FILE is
an image in a tar archive as "ctr images export", "docker save" and "skopeo copy …
oci-archive:" write it (in OCI's layout), and all its blobs are brought: hosts of the
cluster then get them from here, and not from the registry.

What has come is compared with its digest, and is then as good as if it had come from a
registry; it stays as long as there is room ("dfget cache pin").`,
		Args: daemon.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			in.show = terminal.NewLine(cmd.ErrOrStderr())
			for _, name := range args {
				if images {
					err = in.archive(cmd.Context(), name)
				} else {
					err = in.file(cmd.Context(), name)
				}
				if err != nil {
					break
				}
			}
			in.show.Show("")
			if err != nil {
				return err
			}
			if asJSON {
				return terminal.JSON(cmd.OutOrStdout(), in.done)
			}
			for _, b := range in.done {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", b.Digest, terminal.Size(b.Size)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	in.at.add(cmd)
	cmd.Flags().BoolVar(&images, "image", false, "FILE is an image's archive: bring its blobs")
	cmd.Flags().BoolVar(&in.pin, "pin", false, "pin what was brought")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// importer brings blobs to the agent.
type importer struct {
	at   agentFlag
	pin  bool
	show *terminal.Line
	done []imported
}

// file brings a file.
func (in *importer) file(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	d, err := digest.SHA256.FromReader(f)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	return in.bring(ctx, name, d, size, f)
}

// archive brings all blobs of an image's archive.
func (in *importer) archive(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	found := false
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && !found {
			return fmt.Errorf("%s is no archive of an image in OCI's layout: there is no file in blobs/", name)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		parts := strings.Split(path.Clean(h.Name), "/")
		if h.Typeflag != tar.TypeReg || len(parts) != 3 || parts[0] != "blobs" {
			continue
		}
		d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
		if err := d.Validate(); err != nil {
			return fmt.Errorf("%s: %s: %w", name, h.Name, err)
		}
		found = true
		if err := in.bring(ctx, h.Name, d, h.Size, r); err != nil {
			return err
		}
	}
}

func (in *importer) bring(ctx context.Context, name string, d digest.Digest, size int64, r io.Reader) error {
	if size == 0 {
		return nil // nobody needs to keep, or to be asked for, nothing
	}
	body, err := in.at.do(ctx, http.MethodPut, blobPath(d, ""), io.LimitReader(&shownReader{r: r, line: in.show, name: name, all: size}, size), size)
	if err == nil {
		err = body.Close()
	}
	if err == nil && in.pin {
		err = in.at.tell(ctx, http.MethodPut, blobPath(d, "/pin"))
	}
	if err == nil {
		in.done = append(in.done, imported{d, size})
	}
	return err
}

// shownReader shows how much was read.
type shownReader struct {
	r      io.Reader
	line   *terminal.Line
	name   string
	n, all int64
}

func (s *shownReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	s.line.Progress(s.name, s.n, s.all)
	return n, err
}
