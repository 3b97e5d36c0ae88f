package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

// shown is how many rows of a table people get to see; JSON has all.
const shown = 100

// view is what an operator may see: no origins' tokens, since the decisions
// show none.
type view struct {
	Counts sched.Counts
	Swarms []sched.SwarmView
	Hosts  []sched.HostView
	Bans   []sched.Ban
	False  []sched.FalseIndex
}

func (h *hub) counts() sched.Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Counts()
}

func (h *hub) view() view {
	h.mu.Lock()
	defer h.mu.Unlock()
	return view{Counts: h.state.Counts(), Swarms: h.state.Swarms(), Hosts: h.state.Hosts(), Bans: h.state.Bans(time.Now()), False: h.indexes.False()}
}

func (h *hub) swarm(d digest.Digest) (sched.BlobView, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Swarm(d)
}

// routes adds /debug, tables for people, /debug.json, all of it, and
// /debug/blobs/DIGEST, the swarm of one blob with its hosts.
func (h *hub) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := h.view().table(w); err != nil {
			h.log.Debug("write tables", "err", err)
		}
	})
	show := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			h.log.Debug("write view", "err", err)
		}
	}
	mux.HandleFunc("GET /debug.json", func(w http.ResponseWriter, _ *http.Request) { show(w, h.view()) })
	mux.HandleFunc("GET /debug/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		v, ok := h.swarm(digest.Digest(r.PathValue("digest")))
		if !ok {
			http.Error(w, "no swarm of this blob", http.StatusNotFound)
			return
		}
		show(w, v)
	})
}

// table writes bans, swarms in which most is wanted, and hosts that serve most.
func (v view) table(out io.Writer) error {
	c := v.Counts
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush reports it
	row("%d hosts, %d of them seeds; %d swarms, %d of them active; %d trials", c.Hosts, c.Seeds, c.Swarms, c.Active, c.Trials)

	row("\nBANS (%d)\nhost\tuntil\ttimes\twhat\treason", len(v.Bans))
	for _, b := range v.Bans[:min(shown, len(v.Bans))] {
		what := "last resort"
		if b.Banned {
			what = "banned"
		}
		row("%s\t%s\t%d\t%s\t%s", b.Host, b.Until.UTC().Format(time.RFC3339), b.Times, what, b.Reason)
	}

	row("\nFALSE INDEXES (%d)\nlayer\tindex\tfound\tby\tmade by\tcontainers\treason", len(v.False))
	for _, f := range v.False {
		row("%s\t%s\t%s\t%s\t%s\t%s\t%s", f.Layer, f.ID, f.At.UTC().Format(time.RFC3339), f.Accuser, f.Makers, f.Containers, f.Reason)
	}

	row("\nSWARMS (%d)\nblob\tMiB\tstate\towner\tpeers\twanting\tcomplete\tstarving\tleases\tsums", len(v.Swarms))
	slices.SortStableFunc(v.Swarms, func(a, b sched.SwarmView) int { return b.Wanting - a.Wanting })
	for _, s := range v.Swarms[:min(shown, len(v.Swarms))] {
		sums := fmt.Sprint(s.Sums)
		if s.Verified {
			sums = "verified"
		}
		row("%s\t%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s", s.Blob.Digest, s.Blob.Size>>20, s.State, s.Owner, s.Peers, s.Wanting, s.Complete, s.Starving, s.Leases, sums)
	}

	row("\nHOSTS (%d)\nhost\taddress\tseed\tidc\tlocation\tblobs\twanting\tchildren\tpace", len(v.Hosts))
	slices.SortStableFunc(v.Hosts, func(a, b sched.HostView) int { return b.Children - a.Children })
	for _, x := range v.Hosts[:min(shown, len(v.Hosts))] {
		row("%s\t%s\t%v\t%s\t%s\t%d\t%d\t%d\t%.2f", x.ID, x.Addr, x.Seed, x.IDC, x.Location, x.Blobs, x.Wanting, x.Children, x.Pace)
	}
	return w.Flush()
}
