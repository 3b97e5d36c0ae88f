package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

func indexCommand() *cobra.Command {
	cmd := daemon.Group("index", "Keep indexes beside images in registries, for nodes that have nobody to get them from")
	cmd.AddCommand(indexPush(), indexList())
	return cmd
}

// forImage makes a command one that is about an image and its platforms.
func forImage(cmd *cobra.Command, registry *registryFlags, platforms *[]string) *cobra.Command {
	cmd.Args = daemon.Args(cobra.ExactArgs(1))
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	registry.add(cmd)
	cmd.Flags().StringSliceVar(platforms, "platform", []string{thisPlatform}, "of a name that has several images those for this platform; 'all' for all")
	return cmd
}

func indexList() *cobra.Command {
	var registry registryFlags
	var platforms []string
	var asJSON bool
	cmd := forImage(&cobra.Command{
		Use: "ls IMAGE", Short: "List the indexes beside an image",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseImage(args[0])
			if err != nil {
				return err
			}
			c, err := registry.open(name.repo, false, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := listIndexes(cmd.Context(), c, name, platforms)
			if err != nil {
				return err
			}
			if asJSON {
				return terminal.JSON(cmd.OutOrStdout(), list)
			}
			return printIndexes(cmd.OutOrStdout(), list)
		},
	}, &registry, &platforms)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listed is a layer of an image, and an index of it that lies beside that.
type listed struct {
	Platform string        `json:"platform,omitempty"`
	Layer    digest.Digest `json:"layer"`
	Size     int64         `json:"size"` // of the layer
	Artifact digest.Digest `json:"artifact,omitempty"`
	Index    digest.Digest `json:"index,omitempty"` // of SOCI the ztoc; "": there is none
	Version  int           `json:"version,omitempty"`
	Soci     int           `json:"soci,omitempty"` // version of SOCI that it is of; 0: it is of our own format
	Pack     int64         `json:"pack,omitempty"` // bytes, all
	Head     int64         `json:"head,omitempty"` // bytes, before the first read
	Note     string        `json:"note,omitempty"`
}

// listIndexes lists the layers of a name's images.
func listIndexes(ctx context.Context, c *origin.Client, name imageName, platforms []string) ([]listed, error) {
	all, err := images(ctx, c, name, platforms)
	if err != nil {
		return nil, err
	}
	list := []listed{}
	for _, i := range all {
		there, err := besides(ctx, c, name.repo, i.Digest)
		if err != nil {
			return nil, err
		}
		soci, err := sociIndexes(ctx, c, name.repo, i)
		if err != nil {
			return nil, err
		}
		there = append(there, soci...)
		seen := map[digest.Digest]bool{}
		for _, l := range i.layers {
			if !seen[l.Digest] {
				list = append(list, l.listed(i.platform, there)...)
			}
			seen[l.Digest] = true
		}
	}
	return list, nil
}

// offered is an index beside an image, and the artifact that offers it.
type offered struct {
	p2p.Index
	artifact digest.Digest
	soci     int // version of SOCI; then ID is that of the ztoc, which is the pack
}

// besides reads what lies beside an image.
func besides(ctx context.Context, c *origin.Client, repo origin.Repo, manifest digest.Digest) (there []offered, err error) {
	list, err := c.Referrers(ctx, repo, manifest, indexes.ArtifactType, maxDocument)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		data, _, err := c.Document(ctx, repo, d.Digest, true, maxDocument)
		if err != nil {
			return nil, err
		}
		found, err := indexes.ParseArtifact(data, manifest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		for _, x := range found {
			there = append(there, offered{Index: x, artifact: d.Digest})
		}
	}
	return there, nil
}

// sociIndexes reads what SOCI has put beside an image, and what that names.
func sociIndexes(ctx context.Context, c *origin.Client, repo origin.Repo, i image) (there []offered, err error) {
	list, err := c.Referrers(ctx, repo, i.Digest, indexes.SociV1, maxDocument)
	if err != nil {
		return nil, err
	}
	of := map[digest.Digest]int{}
	for _, d := range list {
		of[d.Digest] = 1
	}
	if i.soci != "" {
		of[i.soci] = 2
	}
	for _, d := range slices.Sorted(maps.Keys(of)) {
		data, _, err := c.Document(ctx, repo, d, true, maxDocument)
		if err != nil {
			return nil, err
		}
		found, err := indexes.ParseSoci(data, i.Digest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d, err)
		}
		for _, z := range found {
			x := p2p.Index{Layer: z.Layer, ID: z.Blob.Digest, Pack: z.Blob, Head: z.Blob.Size}
			there = append(there, offered{x, d, of[d]})
		}
	}
	return there, nil
}

// listed describes a layer, once for each index of it.
func (l imageLayer) listed(platform string, there []offered) (list []listed) {
	for _, x := range there {
		if x.Layer != l.Digest {
			continue
		}
		note := ""
		switch {
		case x.soci == 1:
			note = "used if the repository is trusted ([index] trust)"
		case x.soci > 0:
		case x.DiffID != l.diffID:
			note = "not used: of another diffID than the image's"
		case x.Version != index.Version:
			note = fmt.Sprintf("not used by this version, which knows format %d", index.Version)
		}
		list = append(list, listed{platform, l.Digest, l.Size, x.artifact, x.ID, x.Version, x.soci, x.Pack.Size, x.Head, note})
	}
	if list == nil {
		list = append(list, listed{Platform: platform, Layer: l.Digest, Size: l.Size, Note: l.unfit()})
	}
	return list
}

func printIndexes(w io.Writer, list []listed) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "PLATFORM\tLAYER\tSIZE\tINDEX\tFORMAT\tINDEX SIZE\tBEFORE FIRST READ\tNOTE")
	for _, l := range list {
		platform := l.Platform
		if platform == "" {
			platform = "-"
		}
		id, format, pack, head := "-", "-", "-", "-"
		if l.Index != "" {
			id, format = l.Index.Encoded()[:12], fmt.Sprint(l.Version)
			if l.Soci > 0 {
				format = fmt.Sprintf("SOCI v%d", l.Soci)
			}
			pack, head = terminal.Size(l.Pack), terminal.Size(l.Head)
		}
		_, _ = fmt.Fprintf(t, "%s\t%.12s\t%s\t%s\t%s\t%s\t%s\t%s\n", platform, l.Layer.Encoded(), terminal.Size(l.Size), id, format, pack, head, l.Note)
	}
	return t.Flush()
}

// indexedTypes are the media types of layers that can have an index.
var indexedTypes = []string{
	"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip",
	"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
}

// unfit says why a layer is not worth an index; "" if it is.
func (l imageLayer) unfit() string {
	switch {
	case index.NamesTOC(l.Annotations):
		return "has a table of contents of its own"
	case !slices.Contains(indexedTypes, l.MediaType):
		return "cannot be read at random: " + l.MediaType
	case l.Size < indexes.MinLayer:
		return "small: downloaded at once"
	}
	return ""
}

// hint says what to do about an error where that is known.
func hint(err error, repo origin.Repo) error {
	if errors.Is(err, origin.ErrUnauthorized) {
		return fmt.Errorf("%w\nPushing takes credentials that may write to %s: docker login %s", err, repo, repo.Host)
	}
	return err
}
