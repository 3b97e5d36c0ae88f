package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

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

const (
	secretsName = "pull-secrets"  // of what the keeper keeps
	secretTried = 2 * time.Hour   // how long a secret counts whose pull has not ended
	keepWithin  = 3 * time.Second // the keeper should answer
)

// openImageService opens the image service, with what was learned before a restart.
func (n *node) openImageService(ctx context.Context) error {
	c := n.cfg.CRI
	if n.keeper != nil {
		data, err := n.keeper.State(ctx, secretsName)
		if err == nil {
			err = n.learned.Import(data)
		}
		if err != nil && !errors.Is(err, keeper.ErrNotHeld) {
			n.log.Warn("pull secrets that were learned before are lost", "err", err)
		}
	}
	ln, err := daemon.ListenUnix(c.Listen)
	if err != nil {
		return fmt.Errorf("cri.listen: %w", err)
	}
	n.images, err = imageservice.Serve(ln, imageservice.Config{Endpoint: c.Endpoint, Pulls: n.pulls, Log: n.log})
	if err == nil {
		n.log.Info("image service", "socket", c.Listen, "containerd", c.Endpoint)
	}
	return err
}

// pulls learns what an image may be read by: for a while, since its layers are asked for
// during the pull, and for good when that has succeeded.
func (n *node) pulls(p imageservice.Pull) func(err error) {
	n.learned.Add(p.Repo, p.Credential, time.Now().Add(secretTried))
	return func(err error) {
		if err != nil {
			n.learned.Forget(p.Repo, p.Credential) // not if an earlier pull has succeeded with it: containers may still read
			return
		}
		n.learned.Add(p.Repo, p.Credential, time.Time{})
		n.log.Debug("pull secret learned", "repo", p.Repo.String())
		n.keepSecrets()
	}
}

// keepSecrets has the keeper keep what was learned, in memory, for the next process.
func (n *node) keepSecrets() {
	if n.keeper == nil {
		return
	}
	data, err := n.learned.Export()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), keepWithin)
		defer cancel()
		err = n.keeper.PutState(ctx, secretsName, data)
	}
	if err != nil {
		n.log.Warn("pull secrets will not outlive this process", "err", err)
	}
}
