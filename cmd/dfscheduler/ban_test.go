package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// TestBan finds a host that serves wrong bytes, and tells everybody: the hosts,
// the log, metrics and operators.
func TestBan(t *testing.T) {
	t.Parallel()
	var text record
	s := startLogged(t, slog.New(slog.NewTextHandler(&text, nil)), func(c *Config) { c.Swarms.Ban = Duration{6 * time.Second} })
	seed := join(t, s, nil, host("seed", true), all)
	seed.say(t, p2p.Digests{Digest: blob.Digest, Sums: make([]p2p.Sum, 40), Verified: true})
	join(t, s, nil, host("liar", false), all)
	child := join(t, s, nil, host("child", false))
	settle(t, s, 3)
	child.say(t, want)
	stripe := -1
	child.await(t, func(m p2p.Message) bool {
		p, _ := m.(p2p.Parents)
		stripe = slices.IndexFunc(p.Stripes, func(of []p2p.Host) bool { return len(of) > 0 && of[0].ID == "liar" })
		return stripe >= 0
	})
	child.say(t, p2p.Wrong{Digest: blob.Digest, Piece: stripe, Parent: "liar", Got: p2p.Sum{1}})
	seed.await(t, func(m p2p.Message) bool {
		c, ok := m.(p2p.Check)
		return ok && c.Parent.ID == "liar" && c.Piece == stripe
	})
	seed.say(t, p2p.Checked{Digest: blob.Digest, Piece: stripe, Parent: "liar", Failed: p2p.Mismatch})
	const reason = "wrong bytes, say child and seed"
	child.await(t, func(m p2p.Message) bool {
		p, ok := m.(p2p.Parents)
		return ok && !slices.ContainsFunc(p.Stripes, func(of []p2p.Host) bool { return len(of) != 1 || of[0].ID != "seed" })
	})
	eventually(t, s, `dfscheduler_bans_total{what="banned"} 1`+"\n")
	if got := get(t, s, "/debug"); !strings.Contains(got, "BANS (1)") || !strings.Contains(got, reason) {
		t.Errorf("/debug does not show the ban:\n%s", got)
	}
	for _, part := range []string{`accuser=child peer=liar`, `level=WARN msg="host is banned: it serves nobody" peer=liar reason="` + reason + `"`} {
		if got := text.String(); !strings.Contains(got, part) {
			t.Errorf("the log does not say %q:\n%s", part, got)
		}
	}
	for !strings.Contains(text.String(), `msg="host may serve again" peer=liar`) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("the ban does not end:\n%s", text.String())
		}
	}
}

// TestAudit sends a host to the origin when a blob does not match, and tells operators.
func TestAudit(t *testing.T) {
	t.Parallel()
	var text record
	s := startLogged(t, slog.New(slog.NewTextHandler(&text, nil)), nil)
	has := p2p.Inventory{Blob: blob, Have: p2p.FullHave(40)}
	h := join(t, s, nil, host("host", false), has)
	settle(t, s, 1)
	h.say(t, p2p.Digests{Digest: blob.Digest, Sums: make([]p2p.Sum, 40)})
	h.say(t, p2p.Spoiled{Digest: blob.Digest})
	h.await(t, func(m p2p.Message) bool { a, ok := m.(p2p.Audit); return ok && len(a.Pieces) == blob.Pieces() })
	const reason = "the blob does not match its digest"
	eventually(t, s, `dfscheduler_audits_total{reason="`+reason+`"} 1`+"\n")
	if got := text.String(); !strings.Contains(got, "sums are in doubt") || !strings.Contains(got, `pieces=160 reason="`+reason+`"`) {
		t.Errorf("the log does not tell of the audit:\n%s", got)
	}
}
