package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

func indexPush() *cobra.Command {
	var registry registryFlags
	var platforms []string
	var root string
	var dry bool
	cmd := forImage(&cobra.Command{
		Use: "push IMAGE", Short: "Put indexes of an image's layers beside it, into its registry",
		Long: `Each gzip or tar layer of 4 MiB or more gets an index, with which a node can mount
it before it is there. Indexes that the agent on this machine has made are used;
other layers are downloaded once, checked against manifest and config, and
indexed. The indexes become one artifact that refers to the image; the image
itself is not changed.

Nodes use them if their configuration trusts the repository ([index] trust).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseImage(args[0])
			if err != nil {
				return err
			}
			c, err := registry.open(name.repo, true, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer c.Close()
			dir, err := os.MkdirTemp("", "dfget-index-")
			if err != nil {
				return err
			}
			defer func() { _ = os.RemoveAll(dir) }()
			p := &pusher{
				client: c, repo: name.repo, kept: filepath.Join(root, "index"), dir: dir, dry: dry,
				out: cmd.OutOrStdout(), line: terminal.NewLine(cmd.ErrOrStderr()), made: map[digest.Digest]p2p.Index{},
			}
			defer p.line.Show("")
			return hint(p.push(cmd.Context(), name, platforms), name.repo)
		},
	}, &registry, &platforms)
	cmd.Flags().StringVar(&root, "root", "/var/lib/dfsnapshotter", "root of the agent on this machine, whose indexes are used")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done; download and push nothing")
	return cmd
}

// pusher puts indexes into a registry.
type pusher struct {
	client *origin.Client
	repo   origin.Repo
	kept   string // where the agent keeps indexes
	dir    string // for what is made here
	dry    bool
	out    io.Writer
	line   *terminal.Line
	made   map[digest.Digest]p2p.Index // of layers that are done: images share some
}

func (p *pusher) say(format string, args ...any) {
	p.line.Show("")
	_, _ = fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *pusher) push(ctx context.Context, name imageName, platforms []string) error {
	all, err := images(ctx, p.client, name, platforms)
	if err != nil {
		return err
	}
	pushed := 0
	for _, i := range all {
		n, err := p.pushImage(ctx, i)
		if err != nil {
			return err
		}
		pushed += n
	}
	if pushed > 0 && !p.dry {
		p.say("Nodes use them if they trust the repository, in dfsnapshotter.toml:\n[index]\ntrust = ['%s']", p.repo)
	}
	return nil
}

// pushImage puts the indexes of an image's layers beside it, and returns how
// many there are.
func (p *pusher) pushImage(ctx context.Context, i image) (int, error) {
	p.say("image %s", i)
	var found []p2p.Index
	seen := map[digest.Digest]bool{}
	for _, l := range i.layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		if why := l.unfit(); why != "" {
			p.say("layer %.12s, %s: %s", l.Digest.Encoded(), terminal.Size(l.Size), why)
			continue
		}
		x, err := p.pushLayer(ctx, l)
		if err != nil {
			return 0, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		found = append(found, x)
	}
	switch {
	case len(found) == 0:
		p.say("no layer of it is worth an index")
		return 0, nil
	case p.dry:
		return len(found), nil
	}
	artifact, err := p.refer(ctx, i, found)
	if err == nil {
		p.say("artifact %s: %d indexes", artifact, len(found))
	}
	return len(found), err
}

// pushLayer pushes the pack of a layer's index.
func (p *pusher) pushLayer(ctx context.Context, l imageLayer) (p2p.Index, error) {
	if x, ok := p.made[l.Digest]; ok {
		return x, nil
	}
	path, how := indexes.Kept(p.kept, l.Digest), "the agent's index"
	x, err := openIndex(path, l)
	if err != nil {
		how = "downloaded and indexed"
		if p.dry {
			p.say("layer %.12s, %s: to be downloaded and indexed, for %v", l.Digest.Encoded(), terminal.Size(l.Size), err)
			return p2p.Index{}, nil
		}
		path = filepath.Join(p.dir, l.Digest.Encoded())
		if err := p.build(ctx, l, path); err != nil {
			return p2p.Index{}, err
		}
		if x, err = openIndex(path, l); err != nil {
			return p2p.Index{}, err
		}
	}
	defer func() { _ = x.Close() }()
	pack := filepath.Join(p.dir, l.Digest.Encoded()+".pack")
	offer, err := writePack(pack, x)
	if err != nil {
		return p2p.Index{}, err
	}
	if !p.dry {
		open := func() (io.ReadCloser, error) { return p.reading(pack, l, offer.Pack.Size) }
		if err := p.client.PushBlob(ctx, p.repo, offer.Pack.Digest, offer.Pack.Size, open); err != nil {
			return p2p.Index{}, err
		}
	}
	p.say("layer %.12s, %s: %s, %s, %s before the first read", l.Digest.Encoded(), terminal.Size(l.Size), how, terminal.Size(offer.Pack.Size), terminal.Size(offer.Head))
	p.made[l.Digest] = offer
	return offer, os.Remove(pack)
}

// openIndex opens an index that may be given to others as that of a layer.
func openIndex(path string, l imageLayer) (*index.Index, error) {
	x, err := index.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, errors.New("the agent has not kept one")
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s may not be read", filepath.Dir(path))
	case err != nil:
		return nil, err
	}
	if i := x.Info(); i.Blob != l.Digest || i.BlobSize != l.Size || i.DiffID != l.diffID || i.Version != index.Version || !i.Seekable {
		return nil, errors.Join(fmt.Errorf("%s is an index of %s with diffID %s, read at random: %v", path, i.Blob, i.DiffID, i.Seekable), x.Close())
	}
	return x, nil
}

// build downloads a layer and indexes it on the way. What the registry sends must
// be what manifest and config say.
func (p *pusher) build(ctx context.Context, l imageLayer, path string) error {
	r := &blobReader{ctx: ctx, client: p.client, repo: p.repo, digest: l.Digest, size: l.Size}
	defer func() { _ = r.Close() }()
	_, err := index.Build(ctx, path, r, index.Options{
		Blob: l.Digest, Size: l.Size, DiffID: l.diffID,
		Progress: func(n int64) { p.line.Progress(fmt.Sprintf("layer %.12s", l.Digest.Encoded()), n, l.Size) },
	})
	return err
}

func writePack(path string, x *index.Index) (offer p2p.Index, err error) {
	f, err := os.Create(path)
	if err != nil {
		return offer, err
	}
	offer, err = indexes.Write(f, x)
	return offer, errors.Join(err, f.Close())
}

// reading opens a pack that is sent, and shows how far that is.
func (p *pusher) reading(path string, l imageLayer, size int64) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &sending{f: f, sent: func(n int64) {
		p.line.Progress(fmt.Sprintf("index of layer %.12s", l.Digest.Encoded()), n, size)
	}}, nil
}

// sending is a file that tells how much of it was read.
type sending struct {
	f    *os.File
	n    int64
	sent func(int64)
}

func (s *sending) Read(b []byte) (int, error) {
	n, err := s.f.Read(b)
	s.n += int64(n)
	s.sent(s.n)
	return n, err
}

func (s *sending) Close() error { return s.f.Close() }

// refer pushes the artifact that refers to an image. It has nothing of its own
// but the indexes, so that the same ones give the same artifact.
func (p *pusher) refer(ctx context.Context, i image, found []p2p.Index) (digest.Digest, error) {
	data, err := indexes.Artifact(i.Descriptor, found)
	if err != nil {
		return "", err
	}
	empty := ocispec.DescriptorEmptyJSON
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty.Data)), nil }
	if err := p.client.PushBlob(ctx, p.repo, empty.Digest, empty.Size, open); err != nil {
		return "", err
	}
	lists, err := p.client.PushManifest(ctx, p.repo, "", ocispec.MediaTypeImageManifest, data)
	if err != nil {
		return "", err
	}
	d := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data)), ArtifactType: indexes.ArtifactType,
	}
	if lists {
		return d.Digest, nil
	}
	return d.Digest, p.enlist(ctx, i.Digest, d)
}

// maxEnlist is how often somebody else may write the list at the same time.
const maxEnlist = 5

// enlist adds an artifact to the list of those that refer to an image, which
// lies under a tag where the registry keeps none. Two may do so at once, and
// nothing says which of them was last: so it is read again.
func (p *pusher) enlist(ctx context.Context, subject digest.Digest, d ocispec.Descriptor) error {
	tag := origin.ReferrersTag(subject)
	for range maxEnlist {
		list, err := p.enlisted(ctx, subject, tag)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			return nil
		}
		data, err := json.Marshal(ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append(list, d),
		})
		if err != nil {
			return err
		}
		if _, err := p.client.PushManifest(ctx, p.repo, tag, ocispec.MediaTypeImageIndex, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("somebody else writes the list of what refers to the image, under the tag %s of %s, at the same time: try again", tag, p.repo)
}

// enlisted reads the list that is there, of all types.
func (p *pusher) enlisted(ctx context.Context, subject digest.Digest, tag string) ([]ocispec.Descriptor, error) {
	data, mediaType, err := p.client.Tagged(ctx, p.repo, tag, maxDocument)
	if errors.Is(err, origin.ErrNotFound) { // there is none yet, or the registry keeps one and does not say so
		return p.client.Referrers(ctx, p.repo, subject, indexes.ArtifactType, maxDocument)
	}
	if err != nil {
		return nil, err
	}
	list, err := origin.ParseReferrers(data, mediaType)
	if err != nil {
		return nil, fmt.Errorf("the tag %s of %s, which is for a list of what refers to the image: %w", tag, p.repo, err)
	}
	return list, nil
}
