package sched

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// text writes a message in one line.
func text(m p2p.Message) string {
	switch m := m.(type) {
	case p2p.Parents:
		var stripes []string
		for i, parents := range m.Stripes {
			ids := make([]string, len(parents))
			for j, h := range parents {
				ids[j] = string(h.ID)
			}
			stripes = append(stripes, fmt.Sprintf("%d %s", i, cmp.Or(strings.Join(ids, " "), "-")))
		}
		return fmt.Sprintf("parents of %s: %s", m.Digest, merge(stripes))
	case p2p.Fetch:
		line := fmt.Sprintf("fetch %s from %v, token %q, whole %v", m.Blob.Digest, m.Origin, m.Origin.Token, m.Whole)
		if m.Whole && m.Background {
			line += ", in the background"
		}
		return line
	case p2p.Lease:
		return fmt.Sprintf("lease of %s for %v: %s", m.Digest, m.For, ranges(m.Pieces))
	case p2p.Source:
		return fmt.Sprintf("origin of %s allowed %v", m.Digest, m.Allowed)
	case p2p.Digests:
		return fmt.Sprintf("sums of %s from %d: %d %x, verified %v", m.Digest, m.First, len(m.Sums), sha256.Sum256(slices.Concat(bytesOf(m.Sums)...)), m.Verified)
	case p2p.Content:
		return fmt.Sprintf("content of %s: %s", m.Digest, m.Data)
	case p2p.Check:
		return fmt.Sprintf("check piece %d of %s at %s", m.Piece, m.Digest, m.Parent.ID)
	case p2p.Audit:
		return fmt.Sprintf("take pieces %v of %s from the origin: %s", m.Pieces, m.Digest, m.Reason)
	case p2p.Gone:
		return fmt.Sprintf("gone: %s, %s", m.Host, m.Reason)
	case p2p.Recalled:
		if m.Profile == nil {
			return fmt.Sprintf("nothing is known of %s in %s", m.Layer, m.Image)
		}
		var runs []string
		for _, r := range m.Profile.Runs {
			runs = append(runs, fmt.Sprintf("%d-%d", r.First, r.First+r.Count-1))
		}
		packed := ""
		if m.Profile.Pack.Size > 0 {
			packed = fmt.Sprintf(", pack of %d bytes", m.Profile.Pack.Size)
		}
		return fmt.Sprintf("%s in %s, of %s by %s: %s%s", m.Layer, m.Image, cmp.Or(string(m.Profile.Image), "any"), m.Profile.Index, cmp.Or(strings.Join(runs, " "), "nothing"), packed)
	case p2p.Ask:
		return fmt.Sprintf("ask for sums of %s", m.Digest)
	case p2p.Renew:
		return fmt.Sprintf("renew the token of %s", m.Digest)
	}
	return fmt.Sprintf("%T %+v", m, m)
}

func bytesOf(sums []p2p.Sum) [][]byte {
	out := make([][]byte, len(sums))
	for i := range sums {
		out[i] = sums[i][:]
	}
	return out
}

// merge writes neighbours with equal parents as one.
func merge(stripes []string) string {
	var out []string
	for i := 0; i < len(stripes); {
		n, who, _ := strings.Cut(stripes[i], " ")
		j := i + 1
		for j < len(stripes) && strings.HasSuffix(stripes[j], " "+who) && strings.Index(stripes[j], " ") == len(stripes[j])-len(who)-1 {
			j++
		}
		if j-i > 1 {
			n += "-" + strconv.Itoa(j-1)
		}
		out = append(out, "["+n+"] "+who)
		i = j
	}
	return strings.Join(out, ", ")
}

func ranges(pieces []int) string {
	if len(pieces) == 0 {
		return "nothing"
	}
	var out []string
	for i := 0; i < len(pieces); {
		j, step := i+1, 1
		if j < len(pieces) {
			step = pieces[j] - pieces[i]
		}
		for j < len(pieces) && pieces[j]-pieces[j-1] == step {
			j++
		}
		switch {
		case j-i == 1:
			out = append(out, strconv.Itoa(pieces[i]))
		case step == 1:
			out = append(out, fmt.Sprintf("%d-%d", pieces[i], pieces[j-1]))
		default:
			out = append(out, fmt.Sprintf("%d-%d/%d", pieces[i], pieces[j-1], step))
		}
		i = j
	}
	return strings.Join(out, ",")
}

// numbers reads "3", "0-7" and "0-96/8", several separated by commas.
func numbers(t *testing.T, s string) []int {
	var out []int
	for _, r := range strings.Split(s, ",") {
		r, by, _ := strings.Cut(r, "/")
		step, _ := strconv.Atoi(cmp.Or(by, "1"))
		a, b, ok := strings.Cut(r, "-")
		if !ok {
			b = a
		}
		first, err1 := strconv.Atoi(a)
		last, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || step < 1 {
			t.Fatalf("pieces %q", s)
		}
		for i := first; i <= last; i += step {
			out = append(out, i)
		}
	}
	return out
}

// expand makes "h0..3" h0, h1, h2 and h3.
func expand(s string) []string {
	a, b, ok := strings.Cut(s, "..")
	if !ok {
		return []string{s}
	}
	base := strings.TrimRight(a, "0123456789")
	first, _ := strconv.Atoi(a[len(base):])
	last, _ := strconv.Atoi(b)
	var out []string
	for i := first; i <= last; i++ {
		out = append(out, base+strconv.Itoa(i))
	}
	return out
}

func size(t *testing.T, s string) int64 {
	unit := int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "pieces": 256 << 10} {
		if r, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = r, n
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n * unit
}

func failure(s string) p2p.Failure {
	for f := p2p.None; f <= p2p.Refused; f++ {
		if f.String() == s {
			return f
		}
	}
	return -1
}

// transfer reads "2MiB/1s" or the name of a failure.
func transfer(t *testing.T, parent, s string) p2p.Transfer {
	if parent == "origin" {
		parent = ""
	}
	if f := failure(s); f >= 0 {
		return p2p.Transfer{Parent: p2p.HostID(parent), Failed: f}
	}
	n, took, _ := strings.Cut(s, "/")
	d, err := time.ParseDuration(took)
	if err != nil {
		t.Fatal(err)
	}
	return p2p.Transfer{Parent: p2p.HostID(parent), Bytes: size(t, n), Took: d}
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
