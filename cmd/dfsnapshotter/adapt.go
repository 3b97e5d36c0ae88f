package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// layers makes an fs.FS what package snapshot asks for.
type layers struct{ fs *fs.FS }

func (s layers) Resolve(ctx context.Context, w snapshot.Want) (uint32, error) {
	want := fs.Want{
		Desc: w.Desc, DiffID: w.DiffID, Image: w.Image, Manifest: w.Manifest, Unpack: w.Mode == snapshot.Eager,
		Ref: fetcher.Ref{Digest: w.Desc.Digest, Size: w.Desc.Size, Repo: w.Repo},
	}
	for {
		l, err := s.fs.Resolve(ctx, want)
		if err != nil {
			return 0, err
		}
		if w.Mode == snapshot.Lazy {
			return l.ID(), nil
		}
		err = l.Fill(ctx)
		if _, here := s.fs.Layer(l.ID()); here {
			return l.ID(), err
		}
		// It was removed with the image that it belonged to: make it anew.
	}
}

func (s layers) Complete(ctx context.Context, id uint32) error {
	l, err := s.layer(id)
	if err != nil {
		return err
	}
	return l.Complete(ctx)
}

func (s layers) Place(ctx context.Context, id uint32, below []snapshot.Below) (uint32, error) {
	l, err := s.layer(id)
	if err != nil {
		return 0, err
	}
	lower := make([]fs.Below, len(below))
	for i, b := range below {
		if b.Dir != "" {
			lower[i].Dir = b.Dir
		} else if lower[i].Layer, err = s.layer(b.Layer); err != nil {
			return 0, err
		}
	}
	if l, err = s.fs.Place(ctx, l, lower); err != nil {
		return 0, err
	}
	return l.ID(), nil
}

func (s layers) layer(id uint32) (*fs.Layer, error) {
	l, ok := s.fs.Layer(id)
	if !ok {
		return nil, fmt.Errorf("layer %d is not on this host", id)
	}
	return l, nil
}

func (s layers) Paths(ctx context.Context, ids []uint32, form snapshot.Form, chain bool) ([]string, error) {
	return s.fs.Paths(ctx, ids, fs.Form(form), chain)
}

func (s layers) Start(ids []uint32, p snapshot.Program) {
	if image, ok := s.image(ids); ok {
		s.fs.Start(image, fs.Program(p))
	}
}

func (s layers) Record(ids []uint32, image digest.Digest) {
	if layers, ok := s.image(ids); ok {
		s.fs.Record(layers, image)
	}
}

// image returns layers, unless one was removed this moment.
func (s layers) image(ids []uint32) ([]*fs.Layer, bool) {
	image := make([]*fs.Layer, len(ids))
	for i, id := range ids {
		l, err := s.layer(id)
		if err != nil {
			return nil, false
		}
		image[i] = l
	}
	return image, true
}

func (s layers) Layer(id uint32) (snapshot.Layer, bool) {
	l, ok := s.fs.Layer(id)
	if !ok {
		return snapshot.Layer{}, false
	}
	size, inodes := l.Usage()
	uid, gid := l.Owner()
	return snapshot.Layer{Size: size, Inodes: inodes, UID: uid, GID: gid}, true
}

func (s layers) Hides(id uint32) bool {
	l, ok := s.fs.Layer(id)
	return ok && l.Hides()
}

func (s layers) List() []uint32 { return s.fs.IDs() }

func (s layers) Remove(ctx context.Context, id uint32) error { return s.fs.Remove(ctx, id) }

// tokens makes a client of registries what package fetcher asks for.
type tokens struct {
	*origin.Client
	learned *origin.Learned
	log     *slog.Logger
}

// tokenLife is how long a token of another host is tried. Its own life is not
// known; most count for five minutes.
const tokenLife = time.Hour

func (t tokens) Learn(r origin.Repo, token string) {
	if r.IsFile() {
		if err := file.Take(t.Client, r, token, time.Now().Add(tokenLife)); err != nil {
			t.log.Warn("what another host said of how a file is read is of no use", "from", r.String(), "err", err)
		}
		return
	}
	t.learned.Add(r, origin.Credential{RegistryToken: token, Source: "a token that another host lent"}, time.Now().Add(tokenLife))
}
