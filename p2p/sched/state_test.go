package sched_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

var (
	start = time.Unix(0, 0)
	layer = p2p.Blob{Digest: digest.FromString("layer"), Size: 5 << 20}
	other = p2p.Blob{Digest: digest.FromString("other"), Size: 5}
)

func host(id p2p.HostID) p2p.Host {
	return p2p.Host{ID: id, Addr: "10.0.0.1:65002", Share: true}
}

func send(t *testing.T, s *sched.State, from p2p.HostID, m p2p.Message) []sched.Send {
	t.Helper()
	sends, err := s.Handle(start, from, m)
	if err != nil {
		t.Fatalf("%T of %s: %v", m, from, err)
	}
	return sends
}

// What a host may not say is refused with the right error, and changes nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	have := func(n int) *p2p.Have { return p2p.NewHave(n) }
	bad := host("a")
	bad.Addr = "nowhere"
	for name, c := range map[string]struct {
		from p2p.HostID
		m    p2p.Message
		want error
	}{
		"a stranger's want":        {"stranger", p2p.Want{Blob: layer}, sched.ErrUnknown},
		"in another's name":        {"a", p2p.Announce{Host: host("b")}, sched.ErrRole},
		"a bad address":            {"a", p2p.Announce{Host: bad}, p2p.ErrInvalid},
		"one host too many":        {"d", p2p.Announce{Host: host("d")}, sched.ErrLimit},
		"too large an inventory":   {"a", p2p.Announce{Host: host("a"), Inventory: make([]p2p.Inventory, 4)}, sched.ErrLimit},
		"no have-map":              {"a", p2p.Announce{Host: host("a"), Inventory: []p2p.Inventory{{Blob: layer}}}, p2p.ErrInvalid},
		"another have-map":         {"a", p2p.Inventory{Blob: layer, Have: have(7)}, p2p.ErrInvalid},
		"two sizes in a message":   {"a", p2p.Announce{Host: host("a"), Inventory: []p2p.Inventory{{Blob: layer, Have: have(20)}, {Blob: p2p.Blob{Digest: layer.Digest, Size: 5}, Have: have(1)}}}, p2p.ErrInvalid},
		"a negative size":          {"a", p2p.Want{Blob: p2p.Blob{Digest: layer.Digest, Size: -1}}, p2p.ErrInvalid},
		"no digest":                {"a", p2p.Want{Blob: p2p.Blob{Digest: "layer", Size: 1}}, p2p.ErrInvalid},
		"one blob too many":        {"a", p2p.Want{Blob: p2p.Blob{Digest: digest.FromString("4"), Size: 5}}, sched.ErrLimit},
		"one peer too many":        {"c", p2p.Want{Blob: p2p.Blob{Digest: digest.FromString("4"), Size: 5}}, sched.ErrLimit},
		"progress of another blob": {"b", p2p.Progress{Digest: other.Digest}, sched.ErrUnknown},
		"no such piece":            {"a", p2p.Progress{Digest: layer.Digest, Got: []int{20}}, p2p.ErrInvalid},
		"a negative piece":         {"a", p2p.Progress{Digest: layer.Digest, Got: []int{0, -1}}, p2p.ErrInvalid},
		"too many pieces":          {"a", p2p.Progress{Digest: layer.Digest, Got: make([]int, 5000)}, p2p.ErrInvalid},
		"too many transfers":       {"a", p2p.Progress{Digest: layer.Digest, From: make([]p2p.Transfer, 300)}, p2p.ErrInvalid},
		"negative bytes":           {"a", p2p.Progress{Digest: layer.Digest, From: []p2p.Transfer{{Bytes: -1}}}, p2p.ErrInvalid},
		"sums behind the end":      {"a", p2p.Digests{Digest: layer.Digest, First: 19, Sums: make([]p2p.Sum, 2)}, p2p.ErrInvalid},
		"sums before the begin":    {"a", p2p.Digests{Digest: layer.Digest, First: -1, Sums: make([]p2p.Sum, 1)}, p2p.ErrInvalid},
		"a wrong piece nobody has": {"a", p2p.Wrong{Digest: layer.Digest, Piece: 20, Parent: "b"}, p2p.ErrInvalid},
		"a check of the same":      {"a", p2p.Checked{Digest: layer.Digest, Piece: -1, Parent: "b"}, p2p.ErrInvalid},
		"content that is not":      {"a", p2p.Content{Digest: other.Digest, Data: []byte("12345")}, p2p.ErrInvalid},
		"content of a layer":       {"a", p2p.Content{Digest: layer.Digest, Data: []byte("other")}, p2p.ErrInvalid},
		"a scheduler's word":       {"a", p2p.Gone{Host: "b"}, sched.ErrRole},
		"a scheduler's fetch":      {"a", p2p.Fetch{Blob: layer}, sched.ErrRole},
		"a scheduler's parents":    {"a", p2p.Parents{Digest: layer.Digest}, sched.ErrRole},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sched.New(sched.Config{MaxHosts: 3, MaxBlobs: 3, MaxPeers: 4})
			for _, id := range []p2p.HostID{"a", "b", "c"} {
				send(t, s, id, p2p.Announce{Host: host(id)})
			}
			for _, b := range []p2p.Blob{layer, other, {Digest: digest.FromString("third"), Size: 5}} {
				send(t, s, "a", p2p.Want{Blob: b})
			}
			send(t, s, "b", p2p.Want{Blob: layer})
			before := fmt.Sprint(s.Swarms(), s.Hosts(), s.Counts())
			sends, err := s.Handle(start, c.from, c.m)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if len(sends) > 0 {
				t.Errorf("and sends %+v", sends)
			}
			if diff := cmp.Diff(before, fmt.Sprint(s.Swarms(), s.Hosts(), s.Counts())); diff != "" {
				t.Errorf("and changes (-before +after):\n%s", diff)
			}
		})
	}
}

func TestSwarmView(t *testing.T) {
	t.Parallel()
	s := sched.New(sched.Config{})
	if v, ok := s.Swarm(layer.Digest); ok {
		t.Errorf("of nobody: %+v", v)
	}
	have := p2p.NewHave(layer.Pieces())
	for _, i := range []int{0, 1, 2, 5, 19} {
		have.Add(i)
	}
	for id, inventory := range map[p2p.HostID][]p2p.Inventory{
		"all": {{Blob: layer, Have: p2p.FullHave(layer.Pieces()), Verified: true}}, "some": {{Blob: layer, Have: have}}, "none": nil,
	} {
		send(t, s, id, p2p.Announce{Host: host(id), Inventory: inventory})
	}
	send(t, s, "some", p2p.Want{Blob: layer, Lazy: true})
	send(t, s, "none", p2p.Want{Blob: layer})
	v, ok := s.Swarm(layer.Digest)
	if !ok || v.Peers != 3 || v.Complete != 1 || v.Pieces != 20 {
		t.Errorf("%+v, %v", v, ok)
	}
	want := []sched.PeerView{
		{Host: host("all"), Have: 20, Runs: [][2]int{{0, 19}}},
		{Host: host("none"), Wants: true},
		{Host: host("some"), Wants: true, Lazy: true, Have: 5, Runs: [][2]int{{0, 2}, {5, 5}, {19, 19}}},
	}
	if diff := cmp.Diff(want, v.Hosts, cmpopts.IgnoreFields(sched.PeerView{}, "Parents", "Children")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, h := range v.Hosts { // they feed each other, too
		if got := slices.Contains(h.Parents, "all"); got == (h.ID == "all") || slices.Contains(h.Parents, h.ID) {
			t.Errorf("%s takes from %v", h.ID, h.Parents)
		}
	}
	if v.Hosts[0].Children == 0 || len(v.Hosts[0].Parents) > 0 {
		t.Errorf("who has all: %+v", v.Hosts[0])
	}
}

// Who has a manifest with another size of a blob is on its own with that blob,
// and keeps its stream.
func TestDisputedSize(t *testing.T) {
	t.Parallel()
	s := sched.New(sched.Config{})
	for _, id := range []p2p.HostID{"a", "b"} {
		send(t, s, id, p2p.Announce{Host: host(id)})
	}
	send(t, s, "a", p2p.Want{Blob: layer})
	odd := p2p.Blob{Digest: layer.Digest, Size: 5}
	sends, err := s.Handle(start, "b", p2p.Want{Blob: odd})
	if err != nil {
		t.Fatal(err)
	}
	want := []sched.Send{
		{To: "b", Message: p2p.Parents{Digest: layer.Digest, Stripes: make([][]p2p.Host, 1)}},
		{To: "b", Message: p2p.Source{Digest: layer.Digest, Allowed: true}},
	}
	if diff := cmp.Diff(want, sends); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	before := fmt.Sprint(s.Swarms())
	sends, err = s.Handle(start, "b", p2p.Inventory{Blob: odd, Have: p2p.FullHave(1), Verified: true})
	if err != nil || len(sends) > 0 {
		t.Errorf("an inventory: %v, and sends %+v", err, sends)
	}
	if after := fmt.Sprint(s.Swarms()); after != before {
		t.Errorf("the swarm was %s and is %s", before, after)
	}
}

// A host cannot make the scheduler summon witnesses without end.
func TestComplaintsBounded(t *testing.T) {
	t.Parallel()
	s := sched.New(sched.Config{MaxTrial: 2})
	for i := range 12 {
		id := p2p.HostID(fmt.Sprintf("h%02d", i))
		send(t, s, id, p2p.Announce{Host: host(id)})
		send(t, s, id, p2p.Want{Blob: layer})
	}
	for i := range layer.Pieces() {
		send(t, s, p2p.HostID("h00"), p2p.Progress{Digest: layer.Digest, Got: []int{i}})
		send(t, s, "h00", p2p.Digests{Digest: layer.Digest, First: i, Sums: make([]p2p.Sum, 1)})
	}
	checks, refused := 0, 0
	for i := range layer.Pieces() {
		for j := range 12 {
			sends, err := s.Handle(start, "h11", p2p.Wrong{Digest: layer.Digest, Piece: i, Parent: p2p.HostID(fmt.Sprintf("h%02d", j)), Got: p2p.Sum{1}})
			if errors.Is(err, sched.ErrLimit) {
				refused++
			}
			for _, m := range sends {
				if _, ok := m.Message.(p2p.Check); ok {
					checks++
				}
			}
		}
	}
	if checks != 2 || refused == 0 || s.Counts().Trials != 2 {
		t.Errorf("%d checks, %d complaints refused, %d trials", checks, refused, s.Counts().Trials)
	}
}

// The same host is banned for longer each time, up to a bound.
func TestBansGrow(t *testing.T) {
	t.Parallel()
	s := sched.New(sched.Config{BanFor: time.Minute, MaxBan: 5 * time.Minute})
	now := start
	handle := func(from p2p.HostID, m p2p.Message) []sched.Send {
		sends, err := s.Handle(now, from, m)
		if err != nil {
			t.Fatal(err)
		}
		return sends
	}
	seed := host("seed")
	seed.Seed = true
	handle("seed", p2p.Announce{Host: seed})
	handle("bad", p2p.Announce{Host: host("bad"), Inventory: []p2p.Inventory{{Blob: layer, Have: p2p.FullHave(20)}}})
	var lasted []time.Duration
	for i := range 5 {
		child := p2p.HostID(fmt.Sprint("child", i))
		handle(child, p2p.Announce{Host: host(child)})
		handle(child, p2p.Want{Blob: layer})
		handle("seed", p2p.Inventory{Blob: layer, Have: p2p.NewHave(20)})
		handle("seed", p2p.Digests{Digest: layer.Digest, Sums: make([]p2p.Sum, 20)})
		handle(child, p2p.Wrong{Digest: layer.Digest, Piece: 0, Parent: "bad", Got: p2p.Sum{1}})
		handle("seed", p2p.Checked{Digest: layer.Digest, Parent: "bad", Failed: p2p.Mismatch})
		bans := s.Bans(now)
		if len(bans) != 1 || bans[0].Host != "bad" || !bans[0].Banned {
			t.Fatalf("bans %+v", bans)
		}
		lasted = append(lasted, bans[0].Until.Sub(now))
		handle(child, p2p.Unwant{Digest: layer.Digest})
		now = bans[0].Until
		s.Tick(now)
		if len(s.Bans(now)) != 0 {
			t.Fatal("a ban does not end")
		}
	}
	want := []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute}
	if diff := cmp.Diff(want, lasted); diff != "" {
		t.Error(diff)
	}
}

// Three thousand hosts that come at once: everyone has parents in every stripe, the
// seed serves each stripe once, and nobody is many steps away from it.
func TestTreeIsFlat(t *testing.T) {
	t.Parallel()
	const n = 3000
	s := sched.New(sched.Config{})
	seed := host("seed")
	seed.Seed = true
	send(t, s, "seed", p2p.Announce{Host: seed})
	big := p2p.Blob{Digest: digest.FromString("big"), Size: 1 << 30}
	first := map[p2p.HostID][]p2p.HostID{} // by stripe
	note := func(sends []sched.Send) {
		for _, m := range sends {
			p, ok := m.Message.(p2p.Parents)
			if !ok {
				continue
			}
			first[m.To] = make([]p2p.HostID, 8)
			for st, hosts := range p.Stripes {
				if len(hosts) > 0 {
					first[m.To][st] = hosts[0].ID
				}
			}
		}
	}
	for i := range n {
		id := p2p.HostID(fmt.Sprintf("h%04d", i))
		note(send(t, s, id, p2p.Announce{Host: host(id)}))
		note(send(t, s, id, p2p.Want{Blob: big}))
	}
	for now := start; now.Before(start.Add(5 * time.Second)); now = s.Next() {
		note(s.Tick(now))
	}
	kids, deepest := map[p2p.HostID]int{}, 0
	for id, parents := range first {
		for st, p := range parents {
			kids[p]++
			depth := 1
			for q := p; q != "seed"; q = first[q][st] {
				if depth++; q == "" || depth > n {
					t.Fatalf("%s has no way to the seed in stripe %d", id, st)
				}
			}
			deepest = max(deepest, depth)
		}
	}
	if len(first) != n || kids["seed"] != 8 {
		t.Errorf("%d hosts have parents; the seed has %d children", len(first), kids["seed"])
	}
	most := 0
	for _, k := range kids {
		most = max(most, k)
	}
	if deepest > 8 || most > 16 || len(kids) < n*9/10 {
		t.Errorf("deepest %d, most children %d, %d hosts serve", deepest, most, len(kids))
	}
}
