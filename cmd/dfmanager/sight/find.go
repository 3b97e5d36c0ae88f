package sight

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Share is how much of some blobs a host has.
type Share struct {
	ID, Addr string
	Seed     bool
	Bytes    int64 // about, where it has a part of a blob
	Whole    int   // blobs of which it has all
}

// Found is where some blobs are.
type Found struct {
	Copies []int   // hosts that have all of it, by blob
	Hosts  []Share // who has most first
	Unseen bool    // some scheduler could not be asked: there may be more
}

// atOnce is how many blobs are asked for at a time.
const atOnce = 8

// Find returns which hosts have blobs, as the schedulers of a cluster see them.
func (s *Sight) Find(ctx context.Context, cluster int64, schedulers []string, blobs []p2p.Blob) (f Found, err error) {
	seen, unseen := make([]Blob, len(blobs)), make([]bool, len(blobs))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, b := range blobs {
		g.Go(func() (err error) {
			seen[i], _, err = s.Blob(ctx, cluster, schedulers, b.Digest)
			if unseen[i] = errors.Is(err, ErrUnseen); unseen[i] {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return f, err
	}
	f = Found{Copies: make([]int, len(blobs)), Unseen: slices.Contains(unseen, true)}
	shares := map[string]*Share{}
	for i, b := range blobs {
		for _, h := range seen[i].Hosts {
			k := shares[h.ID]
			if k == nil {
				k = &Share{ID: h.ID, Addr: h.Addr, Seed: h.Seed}
				shares[h.ID] = k
			}
			if h.Have == seen[i].Pieces {
				k.Whole++
				f.Copies[i]++
			}
			k.Bytes += min(int64(h.Have)*p2p.PieceSize(b.Size), b.Size)
		}
	}
	for _, k := range shares {
		if k.Bytes > 0 || k.Whole > 0 {
			f.Hosts = append(f.Hosts, *k)
		}
	}
	slices.SortFunc(f.Hosts, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), b.Whole-a.Whole, cmp.Compare(a.ID, b.ID))
	})
	return f, nil
}
