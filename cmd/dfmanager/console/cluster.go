package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

// schedulerView is a scheduler, and what it sees if that could be read.
type schedulerView struct {
	Name  string
	Up    bool   // this manager is connected
	Debug string // where it would show what it sees
	Seen  *seen  // nil: it could not be read
}

// seen is what a scheduler shows at /debug.json.
type seen struct {
	Counts struct{ Hosts, Seeds, Swarms, Active, Bans int }
	Swarms []swarmView
	Hosts  []hostView
	Bans   []banView
}

type swarmView struct {
	Blob struct {
		Digest string
		Size   int64
	}
	State, Owner                       string
	Peers, Wanting, Complete, Starving int
	Verified                           bool
}

type hostView struct {
	ID, Addr, IDC, Location  string
	Seed, Share              bool
	Blobs, Wanting, Children int
	Pace                     float64
}

type banView struct {
	Host, Reason string
	Until        time.Time
	Times        int
	Banned       bool
}

const (
	askWait  = time.Second
	askEvery = 2 * time.Second
	maxSeen  = 64 << 20
)

// views asks schedulers what they see, and remembers it for a moment: all who
// look at the console share that.
type views struct {
	client *http.Client
	port   string

	mu  sync.Mutex // guards all
	all map[string]*view
}

type view struct {
	mu   sync.Mutex // guards what follows; held while it is asked, so that nobody asks twice
	at   time.Time
	seen *seen
}

func newViews(port int) *views {
	return &views{
		client: &http.Client{Timeout: askWait, Transport: &http.Transport{DisableKeepAlives: true}}, // no proxy: they are members
		port:   strconv.Itoa(port), all: map[string]*view{},
	}
}

func (s *views) of(name string) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.all[name]
	if v == nil {
		v = &view{}
		s.all[name] = v
	}
	return v
}

// url is where a scheduler shows what it sees.
func (s *views) url(name string) string {
	host, _, err := net.SplitHostPort(name)
	if err != nil {
		host = name
	}
	return "http://" + net.JoinHostPort(host, s.port) + "/debug.json"
}

// look returns what a scheduler sees, nil if it cannot be read.
func (s *views) look(ctx context.Context, name string) *seen {
	v := s.of(name)
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.at) < askEvery {
		return v.seen
	}
	got, err := s.ask(ctx, s.url(name))
	if err != nil {
		got = nil
		if ctx.Err() != nil {
			return v.seen // who asked has left; the next one asks again
		}
	}
	v.seen, v.at = got, time.Now()
	return got
}

func (s *views) ask(ctx context.Context, url string) (*seen, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	var got seen
	return &got, json.NewDecoder(io.LimitReader(resp.Body, maxSeen)).Decode(&got)
}

// lookAtSchedulers returns all schedulers and what they see.
func (c *Console) lookAtSchedulers(ctx context.Context) []schedulerView {
	up := c.Schedulers()
	all := make([]schedulerView, len(up))
	var wg sync.WaitGroup
	for i, s := range up {
		all[i] = schedulerView{Name: s.Name, Up: s.Up, Debug: c.views.url(s.Name)}
		wg.Go(func() { all[i].Seen = c.views.look(ctx, s.Name) })
	}
	wg.Wait()
	return all
}

// clusterView is all that is known of the cluster.
type clusterView struct {
	Schedulers []schedulerView
	Blind      []string // where schedulers would show what they see
	Hosts      []hostView
	Swarms     []swarmView
	Bans       []banView
	More       struct{ Hosts, Swarms int } // that are not shown
	Seeds      int
}

const maxRows = 100

// gather is what all schedulers see: a host is connected to each of them, and a
// blob has one.
func (c *Console) gather(ctx context.Context) clusterView {
	v := clusterView{Schedulers: c.lookAtSchedulers(ctx)}
	hosts := map[string]hostView{}
	for _, s := range v.Schedulers {
		if s.Seen == nil {
			v.Blind = append(v.Blind, s.Debug)
			continue
		}
		for _, h := range s.Seen.Hosts {
			known := hosts[h.ID]
			h.Blobs, h.Wanting, h.Children = h.Blobs+known.Blobs, h.Wanting+known.Wanting, h.Children+known.Children
			h.Pace = max(h.Pace, known.Pace)
			hosts[h.ID] = h
		}
		v.Swarms = append(v.Swarms, s.Seen.Swarms...)
		v.Bans = append(v.Bans, s.Seen.Bans...)
	}
	for _, h := range hosts {
		v.Hosts = append(v.Hosts, h)
		if h.Seed {
			v.Seeds++
		}
	}
	v.sort()
	return v
}

// sort puts first what needs to be looked at, and leaves out what is too much.
func (v *clusterView) sort() {
	slices.SortFunc(v.Hosts, func(a, b hostView) int {
		return cmp.Or(truth(b.Seed)-truth(a.Seed), b.Children-a.Children, cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(v.Swarms, func(a, b swarmView) int {
		return cmp.Or(truth(b.State == "stuck")-truth(a.State == "stuck"), b.Wanting-a.Wanting, b.Peers-a.Peers, cmp.Compare(a.Blob.Digest, b.Blob.Digest))
	})
	v.More.Hosts, v.More.Swarms = max(0, len(v.Hosts)-maxRows), max(0, len(v.Swarms)-maxRows)
	v.Hosts, v.Swarms = v.Hosts[:min(maxRows, len(v.Hosts))], v.Swarms[:min(maxRows, len(v.Swarms))]
}

func (c *Console) clusterFrame(ctx context.Context) frame {
	return frame{Title: "Cluster", Page: "cluster", Live: "/cluster/events", Body: c.gather(ctx)}
}

func (c *Console) cluster(v *web.Visit) error {
	return c.show(v, http.StatusOK, c.clusterFrame(v.Context()))
}

func (c *Console) clusterEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) { return c.clusterFrame(ctx), false, nil })
}

// Place is where a host is, as far as it says so.
func (h hostView) Place() string {
	switch {
	case h.IDC == "":
		return h.Location
	case h.Location == "":
		return h.IDC
	}
	return fmt.Sprintf("%s, %s", h.IDC, h.Location)
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
