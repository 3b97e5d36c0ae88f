package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dataImage makes an eStargz image of files that do not compress.
func dataImage(seed uint64, files, size int) (*imagetest.Image, error) {
	layer := imagetest.Layer{imagetest.Dir("data", 0o755)}
	for i := range files {
		layer = append(layer, imagetest.Regular(fmt.Sprintf("data/%d", i), 0o644, indextest.Random(seed<<16+uint64(i), size/files)))
	}
	tar, err := layer.Tar()
	if err != nil {
		return nil, err
	}
	return imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/none"}}, [][]byte{tar}, imagetest.EStargz)
}

// benchHang reads a layer that is not there yet, alone and while readers of
// another layer wait for a registry that does not answer.
func (n *node) benchHang(ctx context.Context, rounds int) (*table, error) {
	img, err := dataImage(1, 40, 40<<20)
	if err != nil {
		return nil, err
	}
	ref, err := n.registry.Push(ctx, img, "data", "1")
	if err != nil {
		return nil, err
	}
	hung, err := dataImage(2, 40, 40<<20)
	if err != nil {
		return nil, err
	}
	t := newTable("cold read of a layer of 40 MiB, beside another one")
	for i := range max(rounds, 5) {
		progress("hang: round %d of %d", i+1, max(rounds, 5))
		for _, column := range []string{"alone", "beside a layer whose registry hangs"} {
			if err := n.daemon.Reset(ctx); err != nil {
				return nil, err
			}
			release := func() error { return nil }
			if column != "alone" {
				if release, err = n.hang(ctx, hung); err != nil {
					return nil, err
				}
			}
			took, err := n.readAll(ctx, ref)
			if err := errors.Join(err, release()); err != nil {
				return nil, err
			}
			t.add("time", "s", column, took)
		}
	}
	return t, nil
}

// readAll pulls an image, and returns how long it takes to read all of it.
func (n *node) readAll(ctx context.Context, ref string) (float64, error) {
	if err := n.containerd.Pull(ctx, namespace, ours, ref); err != nil {
		return 0, err
	}
	m, err := n.mount(ctx, "", ours, ref)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	err = shell("cat data/* >/dev/null")(m.dir)
	took := time.Since(began).Seconds()
	return took, errors.Join(err, n.unmount(ctx, m), n.containerd.Collect(ctx, namespace, ref))
}

// hang starts eight readers of an image whose registry no longer answers for its
// layer. release lets them go on and removes the image.
func (n *node) hang(ctx context.Context, img *imagetest.Image) (release func() error, err error) {
	r := origintest.Start(origintest.Options{})
	for d, data := range img.Blobs {
		if d != img.Manifest.Digest {
			r.AddBlob("hung", data)
		}
	}
	r.Tag("hung", "1", r.AddManifest("hung", img.Manifest.MediaType, img.Blobs[img.Manifest.Digest]))
	ref := r.Host() + "/hung:1"
	if err := n.AddHost(r.Host()); err != nil {
		return nil, err
	}
	if err := n.containerd.Pull(ctx, namespace, ours, ref); err != nil {
		return nil, err
	}
	m, err := n.mount(ctx, "", ours, ref)
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	r.Fail(layers[0].Digest, origintest.Fault{Hang: true})
	var readers sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		readers.Go(func() { errs[i] = shell(fmt.Sprintf("cat data/%d >/dev/null", i))(m.dir) })
	}
	return func() error {
		r.Heal()
		readers.Wait()
		err := errors.Join(append(errs, n.unmount(ctx, m), n.containerd.Collect(ctx, namespace, ref))...)
		r.Close()
		return err
	}, nil
}
