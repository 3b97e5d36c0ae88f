package p2p_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

func TestProfile(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x")
	valid := p2p.Profile{Layer: d, Image: d, Index: d, Runs: []p2p.Run{{First: 7, Count: 3}, {First: 0, Count: 1}, {First: 1<<24 - 1, Count: 1}}}
	for name, c := range map[string]struct {
		change func(p *p2p.Profile)
		ok     bool
	}{
		"whole":       {func(*p2p.Profile) {}, true},
		"any image":   {func(p *p2p.Profile) { p.Image = "" }, true},
		"no reads":    {func(p *p2p.Profile) { p.Runs = nil }, true},
		"no layer":    {func(p *p2p.Profile) { p.Layer = "" }, false},
		"odd image":   {func(p *p2p.Profile) { p.Image = "x" }, false},
		"no index":    {func(p *p2p.Profile) { p.Index = "" }, false},
		"pack":        {func(p *p2p.Profile) { p.Pack = p2p.Blob{Digest: d, Size: p2p.MaxBootPack} }, true},
		"odd pack":    {func(p *p2p.Profile) { p.Pack = p2p.Blob{Size: 1} }, false},
		"large pack":  {func(p *p2p.Profile) { p.Pack = p2p.Blob{Digest: d, Size: p2p.MaxBootPack + 1} }, false},
		"empty run":   {func(p *p2p.Profile) { p.Runs = []p2p.Run{{First: 1}} }, false},
		"far run":     {func(p *p2p.Profile) { p.Runs = []p2p.Run{{First: 1 << 24, Count: 1}} }, false},
		"long run":    {func(p *p2p.Profile) { p.Runs = []p2p.Run{{Count: 1<<32 - 1}} }, false},
		"many runs":   {func(p *p2p.Profile) { p.Runs = manyRuns(p2p.MaxRuns+1, 1) }, false},
		"many chunks": {func(p *p2p.Profile) { p.Runs = manyRuns(3, p2p.MaxProfiled/2) }, false},
	} {
		p := valid
		c.change(&p)
		if err := p.Validate(); (err == nil) != c.ok || err != nil && !errors.Is(err, p2p.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyRuns(n int, count uint32) []p2p.Run {
	runs := make([]p2p.Run, n)
	for i := range runs {
		runs[i].Count = count
	}
	return runs
}

func TestRuns(t *testing.T) {
	t.Parallel()
	runs := []p2p.Run{{First: 7, Count: 3}, {First: 10, Count: 1}, {First: 0, Count: 7}, {First: 1<<24 - 9, Count: 9}}
	b := p2p.AppendRuns(nil, runs)
	got, err := p2p.ParseRuns(b)
	if diff := cmp.Diff(runs, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for i := range b {
		_, err := p2p.ParseRuns(b[:i])
		if err != nil && !errors.Is(err, p2p.ErrInvalid) {
			t.Error(err)
		}
	}
	for _, s := range []string{"\x01\x01", "\x00\x00", "\x00", strings.Repeat("\xff", 20), "\x00" + strings.Repeat("\xff", 9) + "\x01", strings.Repeat("\x00\x01", p2p.MaxRuns+1)} {
		if runs, err := p2p.ParseRuns([]byte(s)); !errors.Is(err, p2p.ErrInvalid) {
			t.Errorf("%.20q: %d runs, %v", s, len(runs), err)
		}
	}
}

// FuzzRuns: what is taken is within all bounds, and survives another trip.
func FuzzRuns(f *testing.F) {
	f.Add(p2p.AppendRuns(nil, []p2p.Run{{First: 7, Count: 3}, {First: 10, Count: 1}, {First: 0, Count: 7}}))
	f.Add([]byte{})
	f.Add([]byte{0x01, 0x01, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		runs, err := p2p.ParseRuns(b)
		if err != nil {
			return
		}
		d := digest.FromString("x")
		if err := (p2p.Profile{Layer: d, Index: d, Runs: runs}).Validate(); err != nil {
			t.Fatal(err)
		}
		again, err := p2p.ParseRuns(p2p.AppendRuns(nil, runs))
		if diff := cmp.Diff(runs, again); diff != "" || err != nil {
			t.Fatal(diff, err)
		}
	})
}
