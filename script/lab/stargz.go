package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Stargz is a stargz-snapshotter, to compare with.
type Stargz struct {
	*Process

	at   *Host
	argv []string
}

// StargzSocket is where containerd finds the host's stargz-snapshotter.
func (h *Host) StargzSocket() string { return h.Path("stargz.sock") }

// Stargz prepares a stargz-snapshotter for images of r. program is its
// containerd-stargz-grpc.
func (h *Host) Stargz(program string, r *Registry) (*Stargz, error) {
	config, err := h.write("stargz.toml", fmt.Sprintf("[[resolver.host.%[1]q.mirrors]]\nhost = %[1]q\ninsecure = true\n", r.Host))
	return &Stargz{at: h, argv: []string{program, "--config", config, "--root", h.Path("stargz"), "--address", h.StargzSocket()}}, err
}

// Start starts it with nothing on its disk.
func (s *Stargz) Start(ctx context.Context) error {
	root := s.at.Path("stargz")
	err := errors.Join(unmount(root), os.RemoveAll(root), os.RemoveAll(s.at.StargzSocket()))
	if err != nil {
		return err
	}
	if s.Process, err = s.at.Start("stargz", nil, s.argv...); err != nil {
		return err
	}
	return s.ready(ctx, 30*time.Second, func() error {
		c, err := net.Dial("unix", s.at.StargzSocket())
		if err == nil {
			err = c.Close()
		}
		return err
	})
}
