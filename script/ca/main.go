// Command ca makes a CA and certificates for trying out a cluster:
//
//	go run ./script/ca DIR scheduler=sched-0 seed=seed-0 host=node-1 host=node-2
//
// DIR gets ca.pem and, for each, NAME.pem and NAME.key, good for a year. The
// CA's key is thrown away: for more certificates, make all of them anew.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: ca DIR ROLE=NAME...; roles: host, seed, scheduler")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "ca:", err)
		os.Exit(1)
	}
}

func run(dir string, owners []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		return err
	}
	for _, o := range owners {
		role, name, ok := strings.Cut(o, "=")
		if !ok {
			return fmt.Errorf("%q is not ROLE=NAME", o)
		}
		if err := p2p.HostID(name).Validate(); err != nil {
			return err
		}
		f, err := ca.Issue(dir, p2p.HostID(name), wire.Role(role), 365*24*time.Hour)
		if err != nil {
			return err
		}
		if _, err := f.Load(nil); err != nil { // says what is wrong with the role
			return err
		}
		fmt.Printf("%s: ca = %q, cert = %q, key = %q\n", name, f.CA, f.Cert, f.Key)
	}
	return nil
}
