package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// parts are what this program runs on the two hosts.
var parts = map[string]func(args []string) error{"serve": serve, "take": take, "seed": seed, "host": host}

// setup is how a part is called.
type setup struct {
	dir, file, listen, seed, scheduler, certs string
	blob                                      p2p.Blob
}

func parse(args []string) (setup, error) {
	var s setup
	f := flag.NewFlagSet("part", flag.ContinueOnError)
	f.StringVar(&s.dir, "dir", "", "folder of its own")
	f.StringVar(&s.file, "file", "", "the blob")
	f.StringVar(&s.listen, "listen", "", "where to give pieces")
	f.StringVar(&s.seed, "seed", "", "address of the seed")
	f.StringVar(&s.scheduler, "scheduler", "", "address of the scheduler")
	f.StringVar(&s.certs, "certs", "", "folder of certificates; empty for plain text")
	f.StringVar((*string)(&s.blob.Digest), "blob", "", "digest")
	f.Int64Var(&s.blob.Size, "size", 0, "size")
	return s, f.Parse(args)
}

func (s setup) identity(name string) (*wire.Identity, error) {
	if s.certs == "" {
		return nil, nil
	}
	return wire.LoadIdentity(wire.Files{
		CA: filepath.Join(s.certs, "ca.pem"), Cert: filepath.Join(s.certs, name+".pem"), Key: filepath.Join(s.certs, name+".key"),
	}, slog.Default())
}

// ready says so and waits until it is stopped.
func ready() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	fmt.Println("ready")
	<-c
}

// serve gives a file by a piece server, and nothing else.
func serve(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	id, err := s.identity("seed")
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	server, err := peer.Serve(ln, peer.ServerConfig{Blobs: onDisk(s), Identity: id})
	if err != nil {
		return err
	}
	ready()
	return server.Close()
}

// onDisk is one file as peer.Blobs.
type onDisk setup

func (o onDisk) Stat(digest.Digest) (int64, error) { return o.blob.Size, nil }

func (o onDisk) Have(digest.Digest) (*p2p.Have, <-chan struct{}, error) {
	return p2p.FullHave(o.blob.Pieces()), nil, nil
}

func (o onDisk) Open(_ context.Context, _ digest.Digest, off, n int64, _ peer.Ask) (io.ReadCloser, int64, error) {
	f, err := os.Open(o.file)
	if err == nil {
		_, err = f.Seek(off, io.SeekStart)
	}
	return f, n, err
}

const (
	runSize = 4 << 20 // what is asked for in one request
	streams = 4       // at a time
)

// take gets a blob by a piece client, and nothing else: it hashes each piece
// and writes it to a file.
func take(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	id, err := s.identity("host")
	if err != nil {
		return err
	}
	c, err := peer.NewClient(peer.ClientConfig{Identity: id})
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := os.Create(filepath.Join(s.dir, "blob"))
	if err != nil {
		return err
	}
	began := time.Now()
	var next atomic.Int64
	var g errgroup.Group
	for range streams {
		g.Go(func() error {
			for {
				off := next.Add(runSize) - runSize
				if off >= s.blob.Size {
					return nil
				}
				if err := takeRun(c, s, f, off); err != nil {
					return err
				}
			}
		})
	}
	if err := errors.Join(g.Wait(), f.Close()); err != nil {
		return err
	}
	fmt.Println("took", time.Since(began))
	return nil
}

func takeRun(c *peer.Client, s setup, f *os.File, off int64) error {
	n := min(runSize, s.blob.Size-off)
	r := c.Range(context.Background(), peer.Plan{
		Blob: s.blob, Off: off, N: n, Priority: p2p.Background, Sources: []swarm.Source{{Peer: p2p.Host{ID: "seed", Addr: s.seed}}},
	})
	defer func() { _ = r.Close() }()
	buf := make([]byte, 256<<10)
	sum := sha256.New()
	for at := off; at < off+n; {
		k, err := io.ReadFull(r, buf[:min(int64(len(buf)), off+n-at)])
		if err != nil {
			return err
		}
		_, _ = sum.Write(buf[:k])
		if _, err := f.WriteAt(buf[:k], at); err != nil {
			return err
		}
		if at += int64(k); at%p2p.PieceSize(s.blob.Size) == 0 {
			sum.Sum(nil)
			sum.Reset()
		}
	}
	return nil
}

// open opens a fetcher as a daemon has it, and waits until it has its scheduler.
func (s setup) open(name string) (*fetcher.Fetcher, error) {
	id, err := s.identity(name)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", s.listen)
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	f, err := fetcher.New(fetcher.Config{
		Dir: s.dir, Max: 1 << 40, Sources: []fetcher.Source{local{s.file}}, Registerer: reg,
		Network: &fetcher.Network{
			Self:       p2p.Host{ID: p2p.HostID(name), Addr: s.listen, Seed: name == "seed", Share: true},
			Schedulers: []string{s.scheduler}, Identity: id, Listener: ln,
		},
	})
	if err != nil {
		return nil, err
	}
	return f, lab.Eventually(context.Background(), 10*time.Second, func() error { return linked(reg) })
}

// linked says whether a scheduler is reachable.
func linked(reg *prometheus.Registry) error {
	all, err := reg.Gather()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.GetName() == "dfsnapshotter_peer_schedulers_reachable" && m.GetMetric()[0].GetGauge().GetValue() > 0 {
			return nil
		}
	}
	return errors.New("no scheduler is reachable")
}

// local is an origin that is a file; where there is none, the origin is gone.
type local struct{ file string }

func (local) Name() string { return "origin" }

func (l local) Open(_ context.Context, ref fetcher.Ref, off, n int64) (*fetcher.Body, error) {
	f, err := os.Open(l.file)
	if err != nil {
		return nil, &origin.UnavailableError{Err: err}
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return nil, err
	}
	return &fetcher.Body{ReadCloser: f, Off: off, Size: ref.Size}, nil
}

// seed has the blob before anybody wants it.
func seed(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	f, err := s.open("seed")
	if err != nil {
		return err
	}
	if _, err := s.fetch(f, fetcher.Prefetch); err != nil {
		return err
	}
	ready()
	return f.Close()
}

func host(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	f, err := s.open("host")
	if err != nil {
		return err
	}
	took, err := s.fetch(f, fetcher.OnDemand)
	if err != nil {
		return err
	}
	fmt.Println("took", took)
	return f.Close()
}

// fetch stores the blob and matches its digest.
func (s setup) fetch(f *fetcher.Fetcher, p fetcher.Priority) (time.Duration, error) {
	began := time.Now()
	b, err := f.Blob(fetcher.Ref{Digest: s.blob.Digest, Size: s.blob.Size, Repo: origin.Repo{Host: "registry", Path: "blob"}})
	if err != nil {
		return 0, err
	}
	err = b.Verify(context.Background(), p)
	took := time.Since(began)
	fmt.Printf("%+v\n", b.Stats())
	return took, errors.Join(err, b.Close())
}
