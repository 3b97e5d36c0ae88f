package p2p_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	small = 256 << 10
	mib   = 1 << 20
	gib   = 1 << 30
)

func blob(size int64) p2p.Blob {
	return p2p.Blob{Digest: digest.FromString("blob"), Size: size}
}

func TestPieces(t *testing.T) {
	t.Parallel()
	type shape struct {
		piece           int64
		pieces, stripes int
		last            int64
		scope           p2p.Scope
	}
	for size, want := range map[int64]shape{
		0:             {small, 0, 1, 0, p2p.Empty},
		1:             {small, 1, 1, 1, p2p.Tiny},
		128:           {small, 1, 1, 128, p2p.Tiny},
		129:           {small, 1, 1, 129, p2p.Small},
		small:         {small, 1, 1, small, p2p.Small},
		small + 1:     {small, 2, 1, 1, p2p.Normal},
		7 * small:     {small, 7, 1, small, p2p.Normal},
		7*small + 1:   {small, 8, 8, 1, p2p.Normal},
		256 * mib:     {small, 1024, 8, small, p2p.Normal},
		256*mib + 1:   {512 << 10, 513, 8, 1, p2p.Normal},
		gib:           {mib, 1024, 8, mib, p2p.Normal},
		gib + 1:       {2 * mib, 513, 8, 1, p2p.Normal},
		16 * gib:      {16 * mib, 1024, 8, 16 * mib, p2p.Normal},
		17 * gib:      {16 * mib, 1088, 8, 16 * mib, p2p.Normal},
		p2p.MaxSize:   {16 * mib, p2p.MaxPieces, 8, 16 * mib, p2p.Normal},
		3*gib + 4*mib: {4 * mib, 769, 8, 4 * mib, p2p.Normal},
	} {
		b := blob(size)
		got := shape{piece: p2p.PieceSize(size), pieces: b.Pieces(), stripes: b.Stripes(), scope: b.Scope()}
		var end int64
		for i := range b.Pieces() {
			off, n := b.Piece(i)
			if off != end || n <= 0 || n > got.piece {
				t.Fatalf("size %d: piece %d is %d bytes at %d, expected at %d", size, i, n, off, end)
			}
			if b.Stripe(i) != i%got.stripes {
				t.Fatalf("size %d: piece %d in stripe %d", size, i, b.Stripe(i))
			}
			end, got.last = off+n, n
		}
		if end != size {
			t.Errorf("size %d: pieces end at %d", size, end)
		}
		if got != want {
			t.Errorf("size %d: %+v, want %+v", size, got, want)
		}
	}
}

func TestPieceSizePanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a negative size has a piece size")
		}
	}()
	p2p.PieceSize(-1)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	ok := p2p.Host{ID: "node-1", Addr: "10.0.0.1:65002", IDC: "fra 1", Location: "eu|a|r1", Slots: 8}
	with := func(f func(*p2p.Host)) p2p.Host {
		h := ok
		f(&h)
		return h
	}
	for name, c := range map[string]struct {
		v    interface{ Validate() error }
		want error
	}{
		"host":             {ok, nil},
		"host, IPv6":       {with(func(h *p2p.Host) { h.Addr = "[fe80::1]:1" }), nil},
		"host, no port":    {with(func(h *p2p.Host) { h.Addr = "10.0.0.1" }), p2p.ErrInvalid},
		"host, port 0":     {with(func(h *p2p.Host) { h.Addr = "10.0.0.1:0" }), p2p.ErrInvalid},
		"host, no name":    {with(func(h *p2p.Host) { h.Addr = ":80" }), p2p.ErrInvalid},
		"host, URL":        {with(func(h *p2p.Host) { h.Addr = "a/b:80" }), p2p.ErrInvalid},
		"host, long":       {with(func(h *p2p.Host) { h.Addr = strings.Repeat("a", 300) + ":80" }), p2p.ErrInvalid},
		"host, place":      {with(func(h *p2p.Host) { h.Location = "a\nb" }), p2p.ErrInvalid},
		"host, slots":      {with(func(h *p2p.Host) { h.Slots = -1 }), p2p.ErrInvalid},
		"host, many slots": {with(func(h *p2p.Host) { h.Slots = 1 << 20 }), p2p.ErrInvalid},
		"ID":               {p2p.HostID("a"), nil},
		"no ID":            {p2p.HostID(""), p2p.ErrInvalid},
		"ID, space":        {p2p.HostID("a b"), p2p.ErrInvalid},
		"ID, Umlaut":       {p2p.HostID("ä"), p2p.ErrInvalid},
		"ID, long":         {p2p.HostID(strings.Repeat("a", 129)), p2p.ErrInvalid},
		"blob":             {blob(1), nil},
		"blob, negative":   {blob(-1), p2p.ErrInvalid},
		"blob, huge":       {blob(p2p.MaxSize + 1), p2p.ErrInvalid},
		"blob, no digest":  {p2p.Blob{Size: 1}, p2p.ErrInvalid},
		"blob, bad digest": {p2p.Blob{Digest: "sha256:12", Size: 1}, p2p.ErrInvalid},
	} {
		if err := c.v.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestNear(t *testing.T) {
	t.Parallel()
	h := p2p.Host{IDC: "fra", Location: "eu|a|r1"}
	for o, want := range map[p2p.Host]int{
		{IDC: "ams", Location: "eu|a|r1"}:   0,
		{}:                                  1,
		{IDC: "fra"}:                        2,
		{IDC: "fra", Location: "us|a|r1"}:   2,
		{IDC: "fra", Location: "eu|b|r1"}:   3,
		{IDC: "fra", Location: "eu|a"}:      4,
		{IDC: "fra", Location: "eu|a|r1"}:   5,
		{IDC: "fra", Location: "eu|a|r1|x"}: 5,
	} {
		if got, back := h.Near(o), o.Near(h); got != want || back != want {
			t.Errorf("%+v: %d and back %d, want %d", o, got, back, want)
		}
	}
}

// A token must not come out of any way to print a message.
func TestTokenHidden(t *testing.T) {
	t.Parallel()
	w := p2p.Want{Blob: blob(1), Origin: p2p.Origin{Registry: "docker.io", Repository: "library/python", Token: "SECRET"}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		s := fmt.Sprintf(verb, w)
		if strings.Contains(s, "SECRET") || !strings.Contains(s, "docker.io/library/python") {
			t.Errorf("%s: %s", verb, s)
		}
	}
	if s, err := json.Marshal(w); err != nil || strings.Contains(string(s), "SECRET") || !strings.Contains(string(s), "library/python") {
		t.Errorf("JSON: %s, %v", s, err)
	}
}

func TestRendezvous(t *testing.T) {
	t.Parallel()
	nodes := []string{"a", "b", "c", "d"}
	first := map[string]int{}
	for i := range 1000 {
		key := fmt.Sprint(i)
		order := p2p.Rendezvous(key, nodes)
		first[order[0]]++
		if got := p2p.Rendezvous(key, []string{"d", "c", "b", "a"}); !slices.Equal(got, order) {
			t.Fatalf("key %s: %v and, from other order, %v", key, order, got)
		}
		var rest []string
		for _, n := range nodes {
			if n != order[0] {
				rest = append(rest, n)
			}
		}
		if got := p2p.Rendezvous(key, rest); !slices.Equal(got, order[1:]) {
			t.Fatalf("key %s: without its first node %v, want %v", key, got, order[1:])
		}
	}
	for n, keys := range first {
		if keys < 200 || keys > 300 {
			t.Errorf("node %s is first for %d keys of 1000", n, keys)
		}
	}
	if len(p2p.Rendezvous("x", nil)) != 0 {
		t.Error("nodes out of nothing")
	}
}

// A Have is compared with a map, operation by operation.
func TestHave(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 15, 16, 63, 64, 65, 200} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			h, set := p2p.NewHave(n), map[int]bool{}
			for range 10 * n {
				i := rnd.IntN(n)
				if rnd.IntN(3) > 0 {
					if h.Add(i) == set[i] {
						t.Fatalf("Add(%d) with %v there", i, set[i])
					}
					set[i] = true
				} else {
					if h.Remove(i) != set[i] {
						t.Fatalf("Remove(%d) with %v there", i, set[i])
					}
					delete(set, i)
				}
				compare(t, h, set)
			}
			for i := range n {
				h.Add(i)
				set[i] = true
			}
			compare(t, h, set)
			if !h.Equal(p2p.FullHave(n)) {
				t.Error("not equal to the full set")
			}
		})
	}
}

func compare(t *testing.T, h *p2p.Have, set map[int]bool) {
	t.Helper()
	want := slices.Sorted(maps.Keys(set))
	if diff := cmp.Diff(want, slices.Collect(h.All())); diff != "" {
		t.Fatalf("pieces (-want +got):\n%s", diff)
	}
	if h.Count() != len(want) || h.Full() != (len(want) == h.Len()) {
		t.Fatalf("count %d, full %v with %d of %d", h.Count(), h.Full(), len(want), h.Len())
	}
	missing := 0
	for i := range h.Missing() {
		if set[i] || i >= h.Len() {
			t.Fatalf("piece %d is said to be missing", i)
		}
		missing++
	}
	if missing+len(want) != h.Len() {
		t.Fatalf("%d missing and %d there of %d", missing, len(want), h.Len())
	}
	var runs []int
	for first, last := range h.Runs() {
		for i := first; i <= last; i++ {
			runs = append(runs, i)
		}
		if h.Has(last + 1) {
			t.Fatalf("run %d-%d goes on", first, last)
		}
	}
	if !slices.Equal(runs, want) {
		t.Fatalf("runs give %v, want %v", runs, want)
	}
	b := p2p.Blob{Size: int64(h.Len()) * mib}
	for s := range b.Stripes() {
		n := 0
		for _, i := range want {
			if b.Stripe(i) == s {
				n++
			}
		}
		none := p2p.NewHave(h.Len())
		if h.CountStripe(s) != n || h.Offers(none, s) != n || none.Offers(h, s) != 0 || h.Offers(h, s) != 0 {
			t.Fatalf("stripe %d: counts %d, want %d", s, h.CountStripe(s), n)
		}
	}
	back, err := p2p.HaveFrom(h.Len(), h.Bytes())
	if err != nil || !back.Equal(h) {
		t.Fatalf("decoded %v, %v", back, err)
	}
}

func TestHaveOr(t *testing.T) {
	t.Parallel()
	a, b := p2p.NewHave(100), p2p.NewHave(100)
	for i := range 100 {
		if i%2 == 0 {
			a.Add(i)
		} else {
			b.Add(i)
		}
	}
	c := a.Clone()
	c.Or(b)
	if !c.Full() || a.Count() != 50 || b.Count() != 50 {
		t.Errorf("%v or %v is %v", a, b, c)
	}
	c.Remove(7)
	if c.Offers(a, 7) != 11 || b.Offers(c, 7) != 1 {
		t.Errorf("%d and %d", c.Offers(a, 7), b.Offers(c, 7))
	}
	e := p2p.NewHave(100)
	e.Or(p2p.FullHave(100))
	if !e.Full() {
		t.Errorf("nothing or everything is %v", e)
	}
}

// Whatever is decoded is in bounds and encodes to the same bytes.
func FuzzHaveFrom(f *testing.F) {
	f.Add(0, []byte{0})
	f.Add(100, []byte{1})
	f.Add(9, []byte{2, 0xff, 0})
	f.Add(9, []byte{2, 0xff, 3})
	f.Add(-1, []byte{})
	f.Fuzz(func(t *testing.T, n int, b []byte) {
		h, err := p2p.HaveFrom(n, b)
		if err != nil {
			if !errors.Is(err, p2p.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(h.Bytes(), b) {
			t.Fatalf("%d, %x becomes %x", n, b, h.Bytes())
		}
		count := 0
		for i := range h.All() {
			if i < 0 || i >= n {
				t.Fatalf("piece %d of %d", i, n)
			}
			count++
		}
		if count != h.Count() {
			t.Fatalf("%d pieces, count %d", count, h.Count())
		}
	})
}
