package p2p

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Rendezvous returns nodes in the order in which they are responsible for key:
// the first has the highest weight. All who know the same nodes get the same
// order, and when a node goes or comes, only what it is responsible for moves.
func Rendezvous(key string, nodes []string) []string {
	type weighed struct {
		node   string
		weight uint64
	}
	all := make([]weighed, len(nodes))
	for i, n := range nodes {
		sum := sha256.Sum256([]byte(key + "\x00" + n))
		all[i] = weighed{n, binary.BigEndian.Uint64(sum[:])}
	}
	slices.SortFunc(all, func(a, b weighed) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.node, b.node))
	})
	out := make([]string, len(all))
	for i, w := range all {
		out[i] = w.node
	}
	return out
}
