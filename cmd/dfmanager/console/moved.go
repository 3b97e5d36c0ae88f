package console

import (
	"fmt"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// moved is what nodes have moved in some hours.
type moved struct {
	Hosts, Seeds store.Traffic
	Hours        []store.TrafficHour
}

func sumUp(hours []store.TrafficHour) moved {
	m := moved{Hours: hours}
	for _, h := range hours {
		m.Hosts.Add(h.Hosts)
		m.Seeds.Add(h.Seeds)
	}
	return m
}

// Saved is how many bytes did not leave an origin: those that hosts got from others,
// each of which would have gone there, less those that seeds fetched to that end.
func (m moved) Saved() int64 { return max(0, m.Hosts.Peers-m.Seeds.Origin) }

// Origins is what left the origins.
func (m moved) Origins() int64 { return m.Hosts.Origin + m.Seeds.Origin }

// Hits is how much of what hosts needed was there, or came from others; "": they
// needed nothing.
func (m moved) Hits() string {
	all := m.Hosts.Origin + m.Hosts.Peers + m.Hosts.Store
	if all == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*(1-float64(m.Hosts.Origin)/float64(all)))
}

// Chart shows where bytes came from, each hour.
func (m moved) Chart() chart {
	c, most := columns(m.Hours, []string{"a", "b", "o"}, func(h store.TrafficHour) column {
		peers, store, origin := h.Hosts.Peers, h.Hosts.Store, h.Hosts.Origin+h.Seeds.Origin
		return column{h.Start, []float64{float64(peers), float64(store), float64(origin)}, fmt.Sprintf("%s from other hosts, %s from their own disks, %s from origins", size(peers), size(store), size(origin))}
	})
	c.Most = size(int64(most))
	c.About = fmt.Sprintf("Bytes of blobs by where they came from, in each of the last %d hours: other hosts, the host's own disk, origins. In all %s, %s and %s; %s in the hour with most.",
		len(m.Hours), size(m.Hosts.Peers), size(m.Hosts.Store), size(m.Origins()), c.Most)
	return c
}
