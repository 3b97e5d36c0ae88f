package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/containerd"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

func imageCommand() *cobra.Command {
	cmd := daemon.Group("image", "Bring whole images into containerd")
	cmd.AddCommand(imageFetch())
	return cmd
}

func imageFetch() *cobra.Command {
	var f fetching
	var noAgent, quiet, asJSON bool
	var rate string
	cmd := forImage(&cobra.Command{
		Use: "fetch IMAGE", Short: "Bring an image's blobs into containerd's content store, through the cluster",
		Long: `Images that are served lazily have no layers in containerd's content store, without which
"ctr images export", "push" and "convert", and running the image by another snapshotter,
do not work. dfget image fetch brings what is missing there, from the cluster where that
has it, and compares it with its digests.

If containerd has an image of that name, it is that one which is completed, whatever the
registry has by now; else it is added. What is there already is left as it is.`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if f.name, err = parseImage(args[0]); err != nil {
				return err
			}
			if f.download.limit, err = parseRate(rate); err != nil {
				return err
			}
			if noAgent {
				f.download.direct = "as --no-agent says"
			}
			f.download.log = io.Discard
			if !quiet {
				f.download.log, f.line = cmd.ErrOrStderr(), terminal.NewLine(cmd.ErrOrStderr())
			}
			f.download.access = f.registry
			err = f.run(cmd.Context())
			f.line.Show("")
			if err != nil {
				return exit(err)
			}
			if asJSON {
				return terminal.JSON(cmd.OutOrStdout(), f.done)
			}
			return f.print(cmd.OutOrStdout(), quiet)
		},
	}, &f.registry, &f.platforms)
	f.line = &terminal.Line{}
	flags := cmd.Flags()
	flags.StringVar(&f.socket, "containerd", containerd.Socket, "socket of containerd")
	flags.StringVarP(&f.namespace, "namespace", "n", or(os.Getenv("CONTAINERD_NAMESPACE"), "default"), "namespace of containerd; Kubernetes' is k8s.io")
	flags.StringVar(&f.download.socket, "agent", agent.Socket, "socket of the agent")
	flags.BoolVar(&noAgent, "no-agent", false, "go straight to the registry")
	flags.StringVar(&rate, "rate-limit", "", "bytes per second that dfget takes of each of three layers at a time, such as 20MiB")
	flags.BoolVarP(&quiet, "quiet", "q", false, "show no progress, and say only what is wrong")
	flags.BoolVar(&asJSON, "json", false, "print the blobs as JSON")
	return cmd
}

// fetchesAt is how many layers are fetched at a time.
const fetchesAt = 3

// fetched is a blob of an image.
type fetched struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"media_type"`
	Size      int64         `json:"size"`
	There     bool          `json:"there"` // it was before
	From      agent.From    `json:"from"`
	Direct    string        `json:"direct,omitempty"` // why no agent brought it
}

// fetching brings one image.
type fetching struct {
	name      imageName
	platforms []string
	registry  registryFlags
	socket    string
	namespace string
	download  download // whose settings each blob's has
	line      *terminal.Line

	client *containerd.Client
	origin *origin.Client
	layers []ocispec.Descriptor // to be brought
	done   []fetched
}

func (f *fetching) run(ctx context.Context) (err error) {
	if f.client, err = containerd.Open(f.socket, f.namespace); err != nil {
		return err
	}
	defer func() { _ = f.client.Close() }() // it was asked
	if f.origin, err = f.registry.open(f.name.repo, false, f.download.log); err != nil {
		return err
	}
	defer f.origin.Close()
	target, known, err := f.client.Image(ctx, f.name.String())
	if err != nil {
		return err
	}
	ctx, release, err := f.client.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if !known {
		if target, _, err = readManifest(ctx, f.origin, f.name); err != nil {
			return err
		}
	}
	parents := map[digest.Digest]map[string]string{}
	if err := f.describe(ctx, target, parents); err != nil {
		return err
	}
	if err := f.bring(ctx); err != nil {
		return err
	}
	for d, labels := range parents { // now that all they refer to is there
		if err := f.client.Label(ctx, d, labels); err != nil {
			return err
		}
	}
	if known {
		return nil
	}
	return f.client.AddImage(ctx, f.name.String(), target)
}

// refers are labels by which containerd's garbage collection knows what content needs.
const refers = "containerd.io/gc.ref.content."

// describe brings a manifest or index with what it lists but layers, which it notes, and
// the labels that its parents are to have.
func (f *fetching) describe(ctx context.Context, d ocispec.Descriptor, parents map[digest.Digest]map[string]string) error {
	if parents[d.Digest] != nil {
		return nil
	}
	data, err := f.document(ctx, d, true)
	if err != nil {
		return err
	}
	labels := map[string]string{}
	parents[d.Digest] = labels
	if slices.Contains(indexTypes, d.MediaType) {
		return f.describeIndex(ctx, data, labels, parents)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if _, err := f.document(ctx, m.Config, false); err != nil {
		return err
	}
	labels[refers+"config"] = string(m.Config.Digest)
	for i, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil {
			return fmt.Errorf("manifest %s: layer %q: %w", d.Digest, l.Digest, err)
		}
		if len(l.URLs) > 0 {
			continue // it is not the registry's to give
		}
		labels[fmt.Sprintf("%sl.%d", refers, i)] = string(l.Digest)
		if !slices.ContainsFunc(f.layers, func(o ocispec.Descriptor) bool { return o.Digest == l.Digest }) {
			f.layers = append(f.layers, l)
		}
	}
	return nil
}

func (f *fetching) describeIndex(ctx context.Context, data []byte, labels map[string]string, parents map[digest.Digest]map[string]string) error {
	var list ocispec.Index
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	var there []string
	found := false
	for i, m := range list.Manifests {
		platform := platformOf(m)
		if platform == "" || !wants(f.platforms, platform) {
			there = append(there, platform)
			continue
		}
		found = true
		if err := f.describe(ctx, m, parents); err != nil {
			return err
		}
		labels[fmt.Sprintf("%sm.%d", refers, i)] = string(m.Digest)
	}
	if !found {
		return fmt.Errorf("%s: %w %s, only for %s", f.name, errPlatform, strings.Join(f.platforms, ", "), strings.Join(there, ", "))
	}
	return nil
}

// document returns a manifest or config, and brings it if it is missing.
func (f *fetching) document(ctx context.Context, d ocispec.Descriptor, manifest bool) ([]byte, error) {
	there, err := f.client.Has(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	f.done = append(f.done, fetched{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, There: there})
	if there {
		return f.client.Read(ctx, d)
	}
	data, _, err := f.origin.Document(ctx, f.name.repo, d.Digest, manifest, maxDocument)
	if err != nil {
		return nil, err
	}
	w, err := f.client.Writer(ctx, d)
	if err != nil || w == nil {
		return data, err
	}
	if _, err = w.Write(data); err == nil {
		err = w.Commit(f.source())
	}
	return data, errors.Join(err, w.Close())
}

// source is a label by which containerd knows which repository has content.
func (f *fetching) source() map[string]string {
	return map[string]string{"containerd.io/distribution.source." + f.name.repo.Host: f.name.repo.Path}
}

// bring brings the layers.
func (f *fetching) bring(ctx context.Context) error {
	list := make([]fetched, len(f.layers))
	var came atomic.Int64
	var all int64
	for _, l := range f.layers {
		all += l.Size
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchesAt)
	for i, l := range f.layers {
		group.Go(func() (err error) {
			list[i], err = f.layer(ctx, l, func(n int64) { f.line.Progress(f.name.String(), came.Add(n), all) })
			return err
		})
	}
	err := group.Wait()
	f.done = append(f.done, list...)
	return err
}

// layer brings a layer.
func (f *fetching) layer(ctx context.Context, l ocispec.Descriptor, came func(n int64)) (b fetched, err error) {
	b = fetched{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size}
	if b.There, err = f.client.Has(ctx, l.Digest); err != nil || b.There {
		came(l.Size)
		return b, err
	}
	w, err := f.client.Writer(ctx, l)
	if err != nil || w == nil {
		b.There = w == nil
		return b, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	t := &f.download
	d := download{socket: t.socket, limit: t.limit, access: t.access, log: t.log, direct: t.direct}
	d.Spec = file.Spec{URL: "oci://" + f.name.repo.String() + "@" + string(l.Digest), Size: l.Size}
	p := &part{to: "-", out: &watched{w, came}, want: l.Digest, sums: newDigesters(l.Digest)}
	err = d.fetch(ctx, p)
	var said *agent.Error
	if errors.As(err, &said) && d.direct == "" && (said.Code == agent.Unauthorized || said.Code == agent.NotFound) {
		d.straight("since the agent says: " + said.Text) // it may lack the credentials that are here
		if err = p.restart(); err == nil {
			err = d.fetch(ctx, p)
		}
	}
	if err != nil {
		return b, err
	}
	b.From, b.Direct = d.result.From, d.direct
	return b, w.Commit(f.source())
}

// watched tells how much was written.
type watched struct {
	*containerd.Writer
	came func(n int64)
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.came(int64(n))
	return n, err
}

// print says what was done.
func (f *fetching) print(w io.Writer, quiet bool) error {
	if quiet {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "DIGEST\tSIZE\tFROM")
	for _, b := range f.done {
		from := sourcesText(b.From)
		switch {
		case b.There:
			from = "was there"
		case from == "":
			from = "registry"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", b.Digest, terminal.Size(b.Size), from)
	}
	return t.Flush()
}
