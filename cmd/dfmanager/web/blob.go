package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// What is in a cluster, and what its nodes have moved.
func (s *Server) contentRoutes() []route {
	return []route{
		{method: "GET", path: "/api/v1/clusters/{id}/traffic", access: look, summary: "What the nodes of a cluster have moved in each of the last hours (24, or as many as asked for), the current one last", out: list[trafficHour]{}, query: []string{"hours"}, do: s.traffic},
		{method: "GET", path: "/api/v1/clusters/{id}/blobs", access: look, summary: "Blobs that hosts of a cluster have or want, those most want first: 200 at most, of which the digest begins so", out: blobs{}, query: []string{"digest"}, do: s.blobs},
		{method: "GET", path: "/api/v1/clusters/{id}/blobs/{digest}", access: look, summary: "A blob, and which pieces of it who has", out: oneBlob{}, do: s.blob},
		{method: "POST", path: "/api/v1/find", access: order, summary: "Which hosts have an image: the registry is asked what it is, and the schedulers of a cluster who has that", in: job.Order{}, out: found{}, do: s.findImage},
		{method: "GET", path: "/api/v1/images", access: look, summary: "Images that were preheated, the latest first", out: list[oneImage]{}, page: true, do: s.imagesOf},
	}
}

type moved struct {
	Origin int64 `json:"origin"` // bytes that came from origins
	Peers  int64 `json:"peers"`  // from other hosts
	Store  int64 `json:"store"`  // were there when they were asked for
	Sent   int64 `json:"sent"`   // went to other hosts
}

type trafficHour struct {
	Start time.Time `json:"start"`
	Hosts moved     `json:"hosts"`
	Seeds moved     `json:"seeds"`
}

const maxHours = 35 * 24

func (s *Server) traffic(c *call) (any, error) {
	id, _, err := s.clusterPart(c)
	if err != nil {
		return nil, err
	}
	hours := 24
	if q := c.URL.Query().Get("hours"); q != "" {
		if hours, err = strconv.Atoi(q); err != nil || hours < 1 || hours > maxHours {
			return nil, invalid(map[string]string{"hours": fmt.Sprintf("must be a number from 1 to %d", maxHours)})
		}
	}
	all, err := s.Store.TrafficHours(c.Context(), id, time.Now(), hours)
	return page(store.Page{Limit: -1}, all, nil, func(h store.TrafficHour) trafficHour {
		return trafficHour{h.Start, moved(h.Hosts), moved(h.Seeds)}
	}), err
}

type blobs struct {
	Items  []swarm  `json:"items"`
	Unseen []string `json:"unseen"` // schedulers that could not be asked
}

type swarm struct {
	Digest   string `json:"digest"`
	Size     int64  `json:"size"`
	State    string `json:"state"` // idle, held, owned, leased or stuck
	Owner    string `json:"owner"` // seed that fetches it, or did last
	Hosts    int    `json:"hosts"`
	Wanting  int    `json:"wanting"`
	Complete int    `json:"complete"` // hosts that serve all of it
	Verified bool   `json:"verified"`
}

func showSwarm(w sight.Swarm) swarm {
	return swarm{w.Blob.Digest, w.Blob.Size, w.State, w.Owner, w.Peers, w.Wanting, w.Complete, w.Verified}
}

// schedulers are those of a cluster that may be asked what they see; of the
// standard one, if id is 0.
func (s *Server) schedulers(ctx context.Context, id int64) ([]string, error) {
	all, err := s.Store.AllClusters(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		switch {
		case k.ID != id && (id != 0 || !k.Standard):
		case k.Standard && len(s.Schedulers) > 0:
			return s.Schedulers, nil
		default:
			return s.Store.Schedulers(ctx, k.ID, time.Now())
		}
	}
	return nil, store.ErrNotFound
}

func (s *Server) blobs(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	names, err := s.schedulers(c.Context(), id)
	if err != nil {
		return nil, err
	}
	seen := s.Sight.Gather(c.Context(), id, names)
	out := blobs{Items: []swarm{}, Unseen: []string{}}
	for _, name := range names {
		if seen.Schedulers[name] == nil {
			out.Unseen = append(out.Unseen, name)
		}
	}
	prefix := c.URL.Query().Get("digest")
	for _, w := range seen.Swarms {
		if strings.HasPrefix(w.Blob.Digest, prefix) && len(out.Items) < maxPage {
			out.Items = append(out.Items, showSwarm(w))
		}
	}
	return out, nil
}

type oneBlob struct {
	swarm
	Pieces  int      `json:"pieces"`
	Holders []holder `json:"holders"`
}

type holder struct {
	Host    string   `json:"host"`
	Address string   `json:"address"`
	Seed    bool     `json:"seed"`
	Wants   bool     `json:"wants"` // and is not complete
	Have    int      `json:"have"`
	Runs    [][2]int `json:"runs"`    // of pieces that it has: first and last
	Parents []string `json:"parents"` // from whom it takes; "": the origin
}

func (s *Server) blob(c *call) (any, error) {
	id, err := c.id("id")
	if err != nil {
		return nil, err
	}
	names, err := s.schedulers(c.Context(), id)
	if err != nil {
		return nil, err
	}
	b, found, err := s.Sight.Blob(c.Context(), id, names, digest.Digest(c.PathValue("digest")))
	switch {
	case errors.Is(err, sight.ErrUnseen):
		return nil, &Error{Status: http.StatusServiceUnavailable, Code: "unseen", Message: err.Error()}
	case err != nil || !found:
		return nil, errors.Join(err, store.ErrNotFound)
	}
	out := oneBlob{showSwarm(b.Swarm), b.Pieces, make([]holder, len(b.Hosts))}
	for i, h := range b.Hosts {
		out.Holders[i] = holder{h.ID, h.Addr, h.Seed, h.Wants, h.Have, append([][2]int{}, h.Runs...), append([]string{}, h.Parents...)}
	}
	return out, nil
}

type oneImage struct {
	Image  string    `json:"image"` // its name
	URL    string    `json:"url"`
	Digest string    `json:"digest"`
	Job    int64     `json:"job_id"`
	At     time.Time `json:"preheated_at"`
	Blobs  int       `json:"blobs"`
	Size   int64     `json:"size"`
}

func (s *Server) imagesOf(c *call) (any, error) {
	p, err := c.part()
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Images(c.Context(), p)
	return page(p, all, func(i store.Image) int64 { return i.Job }, func(i store.Image) oneImage {
		return oneImage{registry.Name(i.URL), i.URL, i.Digest, i.Job, i.At, i.Blobs, i.Size}
	}), err
}
