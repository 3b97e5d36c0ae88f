package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/imageservice"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

// CRIConfig is the image service that learns pull secrets.
type CRIConfig struct {
	Listen   string `toml:"listen" comment:"Socket of a CRI image service for kubelet's --image-service-endpoint (and crictl's): it passes every call on to containerd,\nand learns pull secrets, which containerd keeps to itself. Empty for none."`
	Endpoint string `toml:"endpoint" comment:"containerd's socket."`
}

func (c CRIConfig) validate(bad func(key, format string, args ...any)) {
	for _, p := range []struct{ key, path string }{{"cri.listen", c.Listen}, {"cri.endpoint", c.Endpoint}} {
		switch {
		case c.Listen == "":
		case !filepath.IsAbs(p.path):
			bad(p.key, "%q is not an absolute path", p.path)
		case len(p.path) > maxSocket:
			bad(p.key, "%q is too long: it may have %d bytes", p.path, maxSocket)
		}
	}
	if c.Listen != "" && filepath.Clean(c.Listen) == filepath.Clean(c.Endpoint) {
		bad("cri.listen", "is containerd's own socket")
	}
}

const secretsName = "pull-secrets" // of what the keeper keeps

// openImageService opens the image service, with what was learned before a restart.
func (n *node) openImageService(ctx context.Context) error {
	c := n.cfg.CRI
	p := &pulls{learned: &n.learned, log: n.log}
	if n.keeper != nil {
		data, err := n.keeper.State(ctx, secretsName)
		if err == nil {
			err = n.learned.Import(data)
		}
		if err != nil && !errors.Is(err, keeper.ErrNotHeld) {
			n.log.Warn("pull secrets that were learned before are lost", "err", err)
		}
		p.keep = func(ctx context.Context, secrets []byte) error { return n.keeper.PutState(ctx, secretsName, secrets) }
	}
	ln, err := daemon.ListenUnix(c.Listen)
	if err != nil {
		return fmt.Errorf("cri.listen: %w", err)
	}
	n.images, err = imageservice.Serve(ln, imageservice.Config{Endpoint: c.Endpoint, Pulls: p.begin, Log: n.log})
	if err == nil {
		n.log.Info("image service", "socket", c.Listen, "containerd", c.Endpoint)
	}
	return err
}
