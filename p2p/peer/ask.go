package peer

import (
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// MaxHops is how often a request is passed on. One that has come further went
// in a circle.
const MaxHops = 32

const (
	headerFetch    = "Df-Fetch"
	headerHops     = "Df-Hops"
	headerPriority = "Df-Priority"
	fetchThrough   = "through"
	fetchWait      = "wait"
)

// priorities are the values of Df-Priority, and of the label "priority".
var priorities = []string{p2p.OnDemand: "on_demand", p2p.Prefetch: "prefetch", p2p.Background: "background"}

var (
	errHeader = errors.New("header not understood")
	errCircle = errors.New("request went in a circle")
	errAsk    = errors.New("the peer does not understand what it is asked")
)

// Ask says how a range is wanted.
type Ask struct {
	Priority p2p.Priority
	Through  bool // the peer fetches what it lacks, instead of refusing
	Wait     bool // the peer answers as soon as it has the first byte, instead of refusing
	Hops     int  // how many hosts passed the request on already
}

// header writes what parseAsk reads.
func (a Ask) header(h http.Header) {
	h.Set(headerPriority, priorities[a.Priority])
	switch {
	case a.Through:
		h.Set(headerFetch, fetchThrough)
		h.Set(headerHops, strconv.Itoa(a.Hops))
	case a.Wait:
		h.Set(headerFetch, fetchWait)
	}
}

// parseAsk reads the headers of a request. Without any it is the whim of
// somebody with curl, and has time.
func parseAsk(h http.Header) (Ask, error) {
	a := Ask{Priority: p2p.Background}
	if v := h.Get(headerPriority); v != "" {
		i := slices.Index(priorities, v)
		if i < 0 {
			return a, errHeader
		}
		a.Priority = p2p.Priority(i)
	}
	switch h.Get(headerFetch) {
	case "":
	case fetchThrough:
		a.Through = true
	case fetchWait:
		a.Wait = true
	default:
		return a, errHeader
	}
	if v := h.Get(headerHops); v != "" {
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil {
			return a, errHeader
		}
		if n > MaxHops {
			return a, errCircle
		}
		a.Hops = int(n)
	}
	return a, nil
}
