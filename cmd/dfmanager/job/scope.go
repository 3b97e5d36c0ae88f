package job

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// The kinds of scopes, named as Harbor and Dragonfly do. In each of them one seed
// fetches the image; the others get it from there.
const (
	OneSeed  = "single_seed_peer"
	AllSeeds = "all_seed_peers"
	AllPeers = "all_peers" // hosts that give what they have, and seeds
	Listed   = "hosts"     // those that are listed
)

// Kinds are all of them; "" is the first.
var Kinds = []string{OneSeed, AllSeeds, AllPeers, Listed}

// Scope is which hosts an image is brought to, and how, and how much of it.
type Scope struct {
	Kind       string   `json:"scope,omitempty"`
	Percent    int      `json:"percentage,omitempty"`       // of them, always the same ones; 0: all
	Hosts      []string `json:"hosts,omitempty"`            // IDs or addresses, with scope hosts
	Concurrent int      `json:"concurrent_hosts,omitempty"` // at a time; 0: 50
	Seconds    int      `json:"timeout_seconds,omitempty"`  // for how long the job is tried; 0: as configured
	Layers     []string `json:"layers,omitempty"`           // digests of those that are brought there; none: all
}

const (
	maxHosts        = 10_000
	maxLayers       = 500
	usualConcurrent = 50
	maxConcurrent   = 1000
	maxTimeout      = 24 * time.Hour
)

// Check notes what is wrong.
func (s Scope) Check(wrong field.Errors) {
	if s.Kind != "" && !slices.Contains(Kinds, s.Kind) {
		wrong["scope"] = "must be one of " + strings.Join(Kinds, ", ")
	}
	switch listed := s.Kind == Listed; {
	case listed && len(s.Hosts) == 0:
		wrong["hosts"] = "must name some, with scope hosts"
	case !listed && len(s.Hosts) > 0:
		wrong["hosts"] = "go with scope hosts"
	case len(s.Hosts) > maxHosts:
		wrong["hosts"] = fmt.Sprintf("must be %d at most", maxHosts)
	}
	if s.Percent < 0 || s.Percent > 100 {
		wrong["percentage"] = "must be from 1 to 100"
	} else if s.Percent > 0 && s.Kind != AllSeeds && s.Kind != AllPeers {
		wrong["percentage"] = "goes with all_seed_peers and all_peers"
	}
	if s.Concurrent < 0 || s.Concurrent > maxConcurrent {
		wrong["concurrent_hosts"] = fmt.Sprintf("must be from 1 to %d", maxConcurrent)
	}
	if len(s.Layers) > maxLayers || slices.ContainsFunc(s.Layers, func(d string) bool { return p2p.ValidateDigest(digest.Digest(d)) != nil }) {
		wrong["layers"] = fmt.Sprintf("must be digests such as sha256:… with 64 hexadecimal digits, %d at most", maxLayers)
	}
	if s.Seconds < 0 || s.Seconds > int(maxTimeout/time.Second) {
		wrong["timeout_seconds"] = fmt.Sprintf("must be from 1 to %d", int(maxTimeout/time.Second))
	}
}

// single reports whether one seed is all there is to it.
func (s Scope) single() bool { return s.Kind == "" || s.Kind == OneSeed }

// concurrent is how many hosts there may be at a time.
func (s Scope) concurrent() int {
	if s.Concurrent == 0 {
		return usualConcurrent
	}
	return s.Concurrent
}

// timeout is for how long the job is tried.
func (s Scope) timeout(usual time.Duration) time.Duration {
	if s.Seconds == 0 {
		return usual
	}
	return time.Duration(s.Seconds) * time.Second
}

// part leaves the layers of an image that are meant, and its configs, which say what
// layers are.
func (s Scope) part(image registry.Image) (registry.Image, error) {
	if len(s.Layers) == 0 {
		return image, nil
	}
	found := map[string]bool{}
	image.Blobs = slices.DeleteFunc(image.Blobs, func(b registry.Blob) bool {
		meant := slices.Contains(s.Layers, b.Digest.String())
		if meant && b.Kind == registry.KindLayer {
			found[b.Digest.String()] = true
		}
		return !meant && b.Kind == registry.KindLayer
	})
	for _, d := range s.Layers {
		if !found[d] {
			return image, fmt.Errorf("%w: the image has no layer %s", registry.ErrNotFound, d)
		}
	}
	return image, nil
}

// text is how it is stored; "" if it says nothing.
func (s Scope) text() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // of strings and numbers
	}
	if string(text) == "{}" {
		return ""
	}
	return string(text)
}

// ScopeOf reads what a job has stored.
func ScopeOf(text string) (s Scope) {
	if text != "" {
		_ = json.Unmarshal([]byte(text), &s) // it was written by text
	}
	return s
}

// of are those of the hosts that are meant, and which of the list are not there. key
// chooses the same part of them each time.
func (s Scope) of(all []sight.Host, key string) (meant []sight.Host, missing []string) {
	if s.Kind == Listed {
		for _, name := range s.Hosts {
			i := slices.IndexFunc(all, func(h sight.Host) bool { return h.ID == name || h.Addr == name })
			if i < 0 {
				missing = append(missing, name)
			} else if !slices.ContainsFunc(meant, func(h sight.Host) bool { return h.ID == all[i].ID }) {
				meant = append(meant, all[i])
			}
		}
		return meant, missing
	}
	for _, h := range all {
		if h.Seed || s.Kind == AllPeers && h.Share { // a manager is no host that shares
			meant = append(meant, h)
		}
	}
	rank := func(h sight.Host) string {
		sum := sha256.Sum256([]byte(key + "\x00" + h.ID))
		return string(sum[:])
	}
	slices.SortFunc(meant, func(a, b sight.Host) int { return strings.Compare(rank(a), rank(b)) })
	if s.Percent > 0 {
		meant = meant[:(len(meant)*s.Percent+99)/100]
	}
	return meant, nil
}
