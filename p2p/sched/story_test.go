package sched

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	godigest "github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

var update = flag.Bool("update", false, "write what the stories give into testdata")

// TestStories runs the scripts in testdata. A script is paragraphs: lines
// beginning with # are text; then come commands, then a line of dashes, then what
// the scheduler answered, which -update writes.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories: ", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := tell(t, string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s is not what happens; run with -update and look at the difference. Now:\n%s", f, got)
			}
		})
	}
}

// tell runs a script and returns it with its answers.
func tell(t *testing.T, script string) string {
	st := &story{t: t, s: New(Config{}), profiles: NewProfiles(), now: time.Unix(0, 0), blobs: map[string]p2p.Blob{}, names: map[godigest.Digest]string{}}
	var out bytes.Buffer
	for i, par := range strings.Split(strings.TrimSpace(script), "\n\n") {
		if i > 0 {
			out.WriteString("\n")
		}
		ran := false
		st.out.Reset()
		for _, line := range strings.Split(par, "\n") {
			if line == "----" {
				break
			}
			fmt.Fprintln(&out, line)
			if !strings.HasPrefix(line, "#") {
				// "quietly" leaves the answers out.
				n, quiet := st.out.Len(), strings.HasPrefix(line, "quietly ")
				st.command(strings.Fields(strings.TrimPrefix(line, "quietly ")))
				if quiet {
					st.out.Truncate(n)
				}
				check(t, st.s)
				ran = true
			}
		}
		if ran {
			fmt.Fprintf(&out, "----\n%s", cmp.Or(st.out.String(), "nothing\n"))
		}
	}
	return out.String()
}

type story struct {
	t        *testing.T
	s        *State
	now      time.Time
	profiles *Profiles
	blobs    map[string]p2p.Blob
	names    map[godigest.Digest]string
	out      bytes.Buffer
}

func (st *story) command(f []string) {
	opts := map[string]string{}
	var args []string
	for _, a := range f[1:] {
		if k, v, ok := strings.Cut(a, "="); ok {
			opts[k] = v
		} else {
			args = append(args, a)
		}
	}
	switch f[0] {
	case "blob":
		b := p2p.Blob{Digest: godigest.FromString(args[0]), Size: size(st.t, args[1])}
		st.blobs[args[0]], st.names[b.Digest] = b, args[0]
	case "host":
		for _, id := range expand(args[0]) {
			st.host(p2p.HostID(id), args[1:], opts)
		}
	case "disconnect":
		for _, id := range expand(args[0]) {
			st.show(st.s.Disconnect(st.now, p2p.HostID(id)))
		}
	case "wait":
		st.wait(args[0])
	case "repeat":
		for range numbers(st.t, "1-"+f[1]) {
			st.command(f[2:])
		}
	case "graph":
		st.graph(st.blobs[args[0]])
	case "swarms":
		for _, v := range st.s.Swarms() {
			fmt.Fprintf(&st.out, "%s: %s, owner %q, %d peers, %d wanting, %d complete, %d starving, %d leases, %d sums, verified %v\n",
				st.names[v.Blob.Digest], v.State, string(v.Owner), v.Peers, v.Wanting, v.Complete, v.Starving, v.Leases, v.Sums, v.Verified)
		}
	case "learn":
		st.profiles.Learn(st.now, p2p.Learn{Profile: st.profile(args[1:], opts), Again: slices.Contains(args, "again")})
	case "recall":
		st.show(st.profiles.Recall(st.now, p2p.HostID(args[0]), p2p.Recall{Image: st.digest(args[1]), Layer: st.digest(args[2])}))
	case "bans":
		for _, b := range st.s.Bans(st.now) {
			fmt.Fprintf(&st.out, "%s: %s; time %d, %v left, banned %v\n", b.Host, b.Reason, b.Times, b.Until.Sub(st.now), b.Banned)
		}
	default:
		for _, id := range expand(args[0]) {
			m := st.message(f[0], args, opts)
			sends, err := st.s.Handle(st.now, p2p.HostID(id), m)
			st.show(sends)
			if err != nil {
				fmt.Fprintf(&st.out, "%s: error: %s\n", id, st.rename(err.Error()))
			}
		}
	}
}

func (st *story) host(id p2p.HostID, args []string, opts map[string]string) {
	m := p2p.Announce{Host: p2p.Host{
		ID: id, Addr: string(id) + ":65002", Share: !slices.Contains(args, "taking"), Seed: slices.Contains(args, "seed"),
		IDC: opts["idc"], Location: opts["location"],
	}}
	m.Host.Slots, _ = strconv.Atoi(opts["slots"])
	if has := opts["has"]; has != "" {
		for _, h := range strings.Split(has, ",") {
			name, pieces, some := strings.Cut(h, ":")
			b := st.blob(name)
			i := p2p.Inventory{Blob: b, Have: p2p.FullHave(b.Pieces()), Verified: slices.Contains(args, "verified")}
			if some {
				i.Have = p2p.NewHave(b.Pieces())
				for _, n := range numbers(st.t, pieces) {
					i.Have.Add(n)
				}
			}
			m.Inventory = append(m.Inventory, i)
		}
	}
	sends, err := st.s.Handle(st.now, id, m)
	st.show(sends)
	if err != nil {
		fmt.Fprintf(&st.out, "%s: error: %s\n", id, st.rename(err.Error()))
	}
}

func (st *story) message(name string, args []string, opts map[string]string) p2p.Message {
	b := st.blob(args[1])
	piece := func() int { return numbers(st.t, args[2])[0] }
	switch name {
	case "want":
		priority := p2p.Prefetch
		if slices.Contains(args, "background") {
			priority = p2p.Background
		}
		return p2p.Want{Blob: b, Lazy: slices.Contains(args, "lazy"), Priority: priority, Origin: p2p.Origin{Registry: "hub", Repository: cmp.Or(opts["from"], "app"), Token: opts["token"]}}
	case "unwant":
		return p2p.Unwant{Digest: b.Digest}
	case "got":
		m := p2p.Progress{Digest: b.Digest}
		if len(args) > 2 {
			m.Got = numbers(st.t, args[2])
		}
		for _, parent := range slices.Sorted(keys(opts)) {
			m.From = append(m.From, transfer(st.t, parent, opts[parent]))
		}
		return m
	case "wrong":
		return p2p.Wrong{Digest: b.Digest, Piece: piece(), Parent: p2p.HostID(args[3]), Got: sha256.Sum256([]byte("wrong"))}
	case "checked":
		return p2p.Checked{Digest: b.Digest, Piece: piece(), Parent: p2p.HostID(args[3]), Failed: failure(args[4])}
	case "sums":
		n := numbers(st.t, args[2])
		m := p2p.Digests{Digest: b.Digest, First: n[0], Verified: slices.Contains(args, "verified")}
		for _, i := range n {
			m.Sums = append(m.Sums, sumOf(args[1], i, slices.Contains(args, "false")))
		}
		return m
	case "verified":
		return p2p.Verified{Digest: b.Digest}
	case "spoiled":
		return p2p.Spoiled{Digest: b.Digest}
	case "content":
		return p2p.Content{Digest: b.Digest, Data: []byte(args[1])}
	}
	st.t.Fatalf("no command %s", name)
	return nil
}

func sumOf(blob string, i int, wrong bool) p2p.Sum {
	return sha256.Sum256(fmt.Appendf(nil, "%s/%d/%v", blob, i, wrong))
}

// profile is what an image reads of a layer.
func (st *story) profile(args []string, opts map[string]string) p2p.Profile {
	p := p2p.Profile{Image: st.digest(args[0]), Layer: st.digest(args[1]), Index: st.digest(cmp.Or(opts["index"], "index"))}
	if pack := opts["pack"]; pack != "" {
		p.Pack = p2p.Blob{Digest: st.digest("pack"), Size: size(st.t, pack)}
	}
	if args[2] == "none" {
		return p
	}
	for _, run := range strings.Split(args[2], ",") {
		n := numbers(st.t, run)
		p.Runs = append(p.Runs, p2p.Run{First: uint32(n[0]), Count: uint32(len(n))})
	}
	return p
}

// digest is that of something that is not a blob of the story.
func (st *story) digest(name string) godigest.Digest {
	d := godigest.FromString(name)
	st.names[d] = name
	return d
}

func (st *story) blob(name string) p2p.Blob {
	b, ok := st.blobs[name]
	if !ok {
		st.t.Fatalf("no blob %s", name)
	}
	return b
}

// wait lets time pass, with ticks when they are due.
func (st *story) wait(d string) {
	n, err := time.ParseDuration(d)
	if err != nil {
		st.t.Fatal(err)
	}
	end := st.now.Add(n)
	for {
		next := st.s.Next()
		if next.IsZero() || next.After(end) {
			break
		}
		st.now = next
		st.show(st.s.Tick(st.now))
		check(st.t, st.s)
		if !st.s.Next().After(st.now) && !st.s.Next().IsZero() {
			st.t.Fatal("a tick does not do what is due")
		}
	}
	st.now = end
}

func (st *story) show(sends []Send) {
	for _, s := range sends {
		fmt.Fprintf(&st.out, "%s <- %s\n", s.To, st.rename(text(s.Message)))
	}
}

func (st *story) rename(s string) string {
	for d, n := range st.names {
		s = strings.ReplaceAll(s, string(d), n)
	}
	return s
}

// graph shows who is whose first parent, by stripe.
func (st *story) graph(b p2p.Blob) {
	w := st.s.swarms[b.Digest]
	for i := range w.stripes {
		var down func(p *peer) string
		down = func(p *peer) string {
			var kids []string
			if p.links != nil {
				for _, k := range p.links[i].kids {
					if k.links[i].parents[0] == p {
						kids = append(kids, down(k))
					}
				}
			}
			slices.Sort(kids)
			name := cmp.Or(string(p.host.ID), "origin")
			if len(kids) == 0 {
				return name
			}
			return name + "(" + strings.Join(kids, " ") + ")"
		}
		var roots []string
		for _, p := range append([]*peer{w.origin}, w.peers...) {
			if p.prims(i) > 0 && p.links[i].parents[0] == nil {
				roots = append(roots, down(p))
			}
		}
		slices.Sort(roots)
		fmt.Fprintf(&st.out, "stripe %d: %s\n", i, strings.Join(roots, " "))
	}
}
