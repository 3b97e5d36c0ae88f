package main

import (
	dto "github.com/prometheus/client_model/go"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// load is what this host has moved since it was started, and how busy it is: what
// its metrics say.
func (n *node) load() (l manage.Load) {
	families, err := n.reg.Gather()
	if err != nil {
		n.log.Debug("read own metrics", "err", err) // what could be read counts
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			value := int64(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			switch f.GetName() {
			case "dfsnapshotter_fetcher_bytes_total":
				switch label(m) {
				case "peer":
					l.Moved.Peers += value
				case "store":
					l.Moved.Store += value
				default:
					l.Moved.Origin += value
				}
			case "dfsnapshotter_peer_sent_bytes_total":
				l.Moved.Sent += value
			case "dfsnapshotter_store_bytes":
				l.Kept = value
			case "dfsnapshotter_peer_upload_slots_busy":
				l.Uploads = value
			case "dfsnapshotter_fetcher_waiting_reads":
				l.Waiting += value
			}
		}
	}
	return l
}

// label is the value of a metric's only label.
func label(m *dto.Metric) string {
	if all := m.GetLabel(); len(all) == 1 {
		return all[0].GetValue()
	}
	return ""
}
