package swarm_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

var update = flag.Bool("update", false, "write what the scripts of testdata print")

// TestScripts runs the stories of testdata. Each line is a comment, an event, or,
// indented, an action that the event before it led to.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, want)
			if *update {
				if err := os.WriteFile(f, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func runScript(t *testing.T, text []byte) []byte {
	s := &script{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), blobs: map[string]p2p.Blob{}, names: map[digest.Digest]string{}}
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		line := scan.Text()
		if strings.HasPrefix(line, " ") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(line, "#") {
			s.run(words[0], words[1:])
		}
	}
	return s.out.Bytes()
}

type script struct {
	t     *testing.T
	host  *swarm.Host
	now   time.Time
	blobs map[string]p2p.Blob
	names map[digest.Digest]string
	out   bytes.Buffer
}

// run runs one event; what each takes can be read off its case.
func (s *script) run(event string, a []string) {
	h, now := s.host, s.now
	arg := func(i int) string {
		if i < len(a) {
			return a[i]
		}
		return ""
	}
	switch event {
	case "host": // NAME SCHEDULER…
		s.host = swarm.New(swarm.Config{Self: host(a[0]), Schedulers: a[1:], Run: 1 << 20, OriginRun: 4 << 20})
	case "blob": // NAME PIECES, or NAME CONTENT in quotes
		b := p2p.Blob{Digest: digest.FromString(a[0]), Size: int64(s.int(a[1])) * 256 << 10}
		s.blobs[a[0]], s.names[b.Digest] = b, a[0]
	case "file": // NAME PIECES
		b := p2p.Blob{Digest: p2p.Name(sha256.Sum256([]byte(a[0]))), Size: int64(s.int(a[1])) * 256 << 10}
		s.blobs[a[0]], s.names[b.Digest] = b, a[0]
	case "tiny": // NAME CONTENT
		b := p2p.Blob{Digest: digest.FromString(a[1]), Size: int64(len(a[1]))}
		s.blobs[a[0]], s.names[b.Digest] = b, a[0]
	case "wait": // DURATION, with ticks
		s.wait(a[0])
	case "want": // BLOB [lazy|read]
		prio := p2p.Background
		if arg(1) == "read" {
			prio = p2p.Prefetch
		}
		s.show(h.Want(now, s.blobs[a[0]], p2p.Origin{Registry: "registry", Repository: "r"}, arg(1) == "lazy", prio))
	case "unwant": // BLOB
		s.show(h.Unwant(now, s.blobs[a[0]].Digest))
	case "need": // BLOB FIRST-LAST
		p := s.pieces(a[1])
		s.show(h.Need(now, s.blobs[a[0]].Digest, p[0], p[len(p)-1]))
	case "present": // BLOB PIECES [verified]
		s.show(h.Present(now, s.blobs[a[0]], s.have(a[0], a[1]), arg(2) == "verified"))
	case "up": // SCHEDULER
		s.show(h.SchedulerUp(now, a[0]))
	case "down": // SCHEDULER
		s.show(h.SchedulerDown(now, a[0]))
	case "schedulers": // SCHEDULER…
		s.show(h.SetSchedulers(now, a))
	case "have": // PEER BLOB PIECES
		s.show(h.PeerHave(now, p2p.HostID(a[0]), s.blobs[a[1]].Digest, s.have(a[1], a[2])))
	case "lost": // PEER BLOB PIECES
		s.show(h.PeerLost(now, p2p.HostID(a[0]), s.blobs[a[1]].Digest, s.have(a[1], a[2])))
	case "gone": // PEER BLOB [FAILURE]
		f := p2p.Unreachable
		if arg(2) != "" {
			f = failure(a[2])
		}
		s.show(h.PeerGone(now, p2p.HostID(a[0]), s.blobs[a[1]].Digest, f))
	case "piece": // ID PIECES [bad|worse] [MILLISECONDS]
		for _, i := range s.pieces(a[1]) {
			s.show(h.Piece(now, uint64(s.int(a[0])), i, sum(i, arg(2)), 10*time.Millisecond))
		}
	case "failed": // ID FAILURE
		s.show(h.Failed(now, uint64(s.int(a[0])), failure(a[1])))
	case "filled": // BLOB PIECE [origin]
		s.show(h.Filled(now, s.blobs[a[0]].Digest, s.int(a[1]), sum(s.int(a[1]), ""), arg(2) == "origin"))
	case "hashed": // BLOB
		sums := make([]p2p.Sum, s.blobs[a[0]].Pieces())
		for i := range sums {
			sums[i] = sum(i, "")
		}
		s.show(h.Hashed(now, s.blobs[a[0]].Digest, sums))
	case "matched": // BLOB true|false
		s.show(h.Matched(now, s.blobs[a[0]].Digest, a[1] == "true"))
	case "read": // BLOB OFF N
		for _, p := range h.Read(now, s.blobs[a[0]].Digest, int64(s.int(a[1])), int64(s.int(a[2]))) {
			fmt.Fprintf(&s.out, "  part %d+%d of%s, hedged after %v\n", p.Off, p.N, sources(p.Sources), p.Hedge)
		}
	case "served": // BLOB PEER|origin FIRST-BYTE-MS FAILURE [N MS]
		g := swarm.Given{Bytes: 1000, First: time.Duration(s.int(a[2])) * time.Millisecond, Failed: failure(a[3])}
		if a[1] != "origin" {
			g.From = host(a[1]).ID
		}
		if arg(4) != "" {
			g.Bytes, g.Took = int64(s.int(a[4])), time.Duration(s.int(a[5]))*time.Millisecond
		}
		s.show(h.Served(now, s.blobs[a[0]].Digest, g))
	default: // SCHEDULER says MESSAGE …
		s.show(h.FromScheduler(now, event, s.message(a[1], a[2:])))
	}
}

func (s *script) message(kind string, a []string) p2p.Message {
	b := s.blobs[a[0]]
	switch kind {
	case "parents": // BLOB LIST…: one list of hosts per stripe; a single one is for all
		m := p2p.Parents{Digest: b.Digest}
		for i := range b.Stripes() {
			var hosts []p2p.Host
			for _, n := range strings.Split(a[1+min(i, len(a)-2)], ",") {
				if n != "-" {
					hosts = append(hosts, host(n))
				}
			}
			m.Stripes = append(m.Stripes, hosts)
		}
		return m
	case "sums": // BLOB FIRST-LAST [bad] [verified]
		m := p2p.Digests{Digest: b.Digest, Verified: a[len(a)-1] == "verified"}
		for k, i := range s.pieces(a[1]) {
			if k == 0 {
				m.First = i
			}
			how := ""
			if len(a) > 2 && a[2] != "verified" {
				how = a[2]
			}
			m.Sums = append(m.Sums, sum(i, how))
		}
		return m
	case "fetch": // BLOB [whole [background]]
		return p2p.Fetch{Blob: b, Origin: p2p.Origin{Registry: "registry", Repository: "r"}, Whole: len(a) > 1, Background: len(a) > 2}
	case "lease": // BLOB PIECES
		return p2p.Lease{Digest: b.Digest, Pieces: s.pieces(a[1]), For: 30 * time.Second}
	case "source": // BLOB true|false
		return p2p.Source{Digest: b.Digest, Allowed: a[1] == "true"}
	case "content": // BLOB CONTENT
		return p2p.Content{Digest: b.Digest, Data: []byte(a[1])}
	case "renew":
		return p2p.Renew{Digest: b.Digest}
	case "ask":
		return p2p.Ask{Digest: b.Digest}
	case "audit": // BLOB PIECES
		return p2p.Audit{Digest: b.Digest, Pieces: s.pieces(a[1])}
	case "check": // BLOB PIECE PARENT
		return p2p.Check{Digest: b.Digest, Piece: s.int(a[1]), Parent: host(a[2])}
	case "gone": // HOST
		return p2p.Gone{Host: p2p.HostID(a[0]), Reason: "dead"}
	}
	s.t.Fatalf("no message %q", kind)
	return nil
}

// wait lets time pass and ticks as the host asks for it.
func (s *script) wait(d string) {
	long, err := time.ParseDuration(d)
	if err != nil {
		s.t.Fatal(err)
	}
	end := s.now.Add(long)
	for {
		next := s.host.Next()
		if next.IsZero() || next.After(end) {
			break
		}
		if next.After(s.now) {
			s.now = next
		}
		var before bytes.Buffer
		before, s.out = s.out, before
		s.show(s.host.Tick(s.now))
		said := s.out.String()
		s.out = before
		if said != "" {
			fmt.Fprintf(&s.out, "  %v later\n%s", s.now.Sub(end.Add(-long)), said)
		}
	}
	s.now = end
}

func (s *script) show(actions []swarm.Action) {
	for _, a := range actions {
		fmt.Fprintln(&s.out, "  "+s.text(a))
	}
}

func (s *script) text(a swarm.Action) string {
	switch a := a.(type) {
	case swarm.Send:
		return fmt.Sprintf("tell %s: %s", a.Scheduler, s.said(a.Message))
	case swarm.Request:
		through := ""
		if a.Through {
			through = ", fetching it"
		}
		if a.Wait {
			through = ", when it has it"
		}
		return fmt.Sprintf("request %d: %s %s of %s%s", a.ID, s.names[a.Blob.Digest], run(a.First, a.Last), a.Peer.ID, through)
	case swarm.Origin:
		return fmt.Sprintf("request %d: %s %s of the origin %v, %v", a.ID, s.names[a.Blob.Digest], run(a.First, a.Last), a.Origin, a.Priority)
	case swarm.Cancel:
		return fmt.Sprintf("cancel %d", a.ID)
	case swarm.Subscribe:
		return fmt.Sprintf("subscribe to %s for %s", a.Peer.ID, s.names[a.Blob.Digest])
	case swarm.Unsubscribe:
		return fmt.Sprintf("unsubscribe from %s for %s", a.Peer, s.names[a.Digest])
	case swarm.Ignore:
		return fmt.Sprintf("ignore piece %d of request %d", a.Piece, a.ID)
	case swarm.Store:
		return fmt.Sprintf("store %s %d", s.names[a.Digest], a.Piece)
	case swarm.Drop:
		return fmt.Sprintf("drop %s %d", s.names[a.Digest], a.Piece)
	case swarm.Match:
		return "match " + s.names[a.Digest]
	case swarm.Data:
		return fmt.Sprintf("data of %s: %q", s.names[a.Blob.Digest], a.Data)
	case swarm.Hash:
		return "hash " + s.names[a.Blob.Digest]
	case swarm.Corrupt:
		return "corrupt: " + s.names[a.Digest]
	case swarm.Renew:
		return "renew the token for " + s.names[a.Digest]
	}
	s.t.Fatalf("no text for %T", a)
	return ""
}

func (s *script) said(m p2p.Message) string {
	switch m := m.(type) {
	case p2p.Announce:
		text := "I am " + string(m.Host.ID)
		for _, i := range m.Inventory {
			text += "; " + s.said(i)
		}
		return text
	case p2p.Inventory:
		text := fmt.Sprintf("I have of %s %v", s.names[m.Blob.Digest], m.Have)
		if m.Verified {
			text += ", verified"
		}
		return text
	case p2p.Want:
		how := "want"
		if m.Lazy {
			how = "want lazily"
		}
		return fmt.Sprintf("I %s %s", how, s.names[m.Blob.Digest])
	case p2p.Unwant:
		return "I do not want " + s.names[m.Digest]
	case p2p.Progress:
		text := fmt.Sprintf("of %s I got %v", s.names[m.Digest], m.Got)
		for _, t := range m.From {
			text += fmt.Sprintf(", %d pieces of %q %v", t.Bytes>>18, t.Parent, t.Failed)
		}
		return text
	case p2p.Digests:
		text := fmt.Sprintf("the sums of %s %s", s.names[m.Digest], run(m.First, m.First+len(m.Sums)-1))
		if m.Verified {
			text += ", verified"
		}
		return text
	case p2p.Wrong:
		return fmt.Sprintf("%s %d of %s is wrong", s.names[m.Digest], m.Piece, m.Parent)
	case p2p.Checked:
		return fmt.Sprintf("%s %d of %s: %v", s.names[m.Digest], m.Piece, m.Parent, m.Failed)
	case p2p.Verified:
		return s.names[m.Digest] + " matches its digest"
	case p2p.Spoiled:
		return s.names[m.Digest] + " does not match its digest"
	case p2p.Content:
		return fmt.Sprintf("%s is %q", s.names[m.Digest], m.Data)
	}
	return fmt.Sprintf("%T", m)
}

func (s *script) int(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// pieces reads 1-3,7.
func (s *script) pieces(text string) []int {
	var all []int
	for _, part := range strings.Split(text, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		for i := s.int(first); i <= s.int(last); i++ {
			all = append(all, i)
		}
	}
	return all
}

func (s *script) have(blob, pieces string) *p2p.Have {
	have := p2p.NewHave(s.blobs[blob].Pieces())
	for _, i := range s.pieces(pieces) {
		have.Add(i)
	}
	return have
}

func host(name string) p2p.Host {
	return p2p.Host{ID: p2p.HostID(name), Addr: name + ":65002", Seed: strings.HasPrefix(name, "seed"), Share: true}
}

func sum(piece int, how string) p2p.Sum {
	var s p2p.Sum
	binary.BigEndian.PutUint64(s[:], uint64(piece)+1)
	copy(s[8:], how)
	return s
}

func failure(name string) p2p.Failure {
	for f := p2p.None; f <= p2p.Refused; f++ {
		if f.String() == name {
			return f
		}
	}
	panic(name)
}

func run(first, last int) string {
	if first == last {
		return strconv.Itoa(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func sources(list []swarm.Source) string {
	text := ""
	for _, s := range list {
		switch {
		case s.Origin():
			text += " the origin"
		case s.Through:
			text += fmt.Sprintf(" %s (through)", s.Peer.ID)
		default:
			text += " " + string(s.Peer.ID)
		}
	}
	return text
}
