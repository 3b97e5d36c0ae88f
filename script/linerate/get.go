package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// get fetches a blob into a folder as dfsnapshotter does, verified, and prints
// how many seconds that took and where the bytes came from.
func get(args []string) (err error) {
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	dir := flags.String("dir", "", "folder of the store")
	scheduler := flags.String("scheduler", "", "host:port")
	self := flags.String("self", "", "host:port that others dial")
	name := flags.String("name", "", "of this host")
	certs := flags.String("certs", "", "folder of certificates")
	registry := flags.String("registry", "", "host:port")
	hosts := flags.String("hosts", "", "hosts.toml tree")
	size := flags.Int64("size", 0, "of the blob")
	d := flags.String("digest", "", "of the blob")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var files wire.Files
	if *certs != "" {
		files = wire.Files{CA: *certs + "/ca.pem", Cert: *certs + "/" + *name + ".pem", Key: *certs + "/" + *name + ".key"}
	}
	id, err := files.Load(log)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *self)
	if err != nil {
		return err
	}
	from, err := origin.New(origin.Config{HostsDir: *hosts, Log: log})
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := fetcher.New(fetcher.Config{
		Dir: *dir, Sources: []fetcher.Source{fetcher.Origin(from)}, Log: log,
		Network: &fetcher.Network{
			Self:       p2p.Host{ID: p2p.HostID(*name), Addr: *self, Share: true},
			Schedulers: []string{*scheduler}, Identity: id, Listener: ln,
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	<-time.After(time.Second) // the daemon would have been connected for long
	began := time.Now()
	b, err := f.Blob(fetcher.Ref{Digest: digest.Digest(*d), Size: *size, Repo: origin.Repo{Host: *registry, Path: "blob"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.Verify(context.Background(), p2p.Background); err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("%f %d %d\n", took.Seconds(), b.Stats().Fetched["peer"], b.Stats().Fetched["origin"])
	return nil
}
