package fs

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	reg        prometheus.Registerer
	onDemand   prometheus.Histogram
	filled     prometheus.Counter
	resolved   *prometheus.CounterVec
	late       *prometheus.CounterVec
	profiles   *prometheus.CounterVec
	recorded   prometheus.Counter
	boots      *prometheus.CounterVec
	startReads startReads
}

// startReads counts the reads of starts that are recorded, by how long they waited.
type startReads struct{ none, short, long prometheus.Counter }

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		reg: reg,
		onDemand: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "dfsnapshotter_read_wait_seconds",
			Help:    "Time that reads waited for bytes that were not on disk.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 17),
		}),
		filled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfsnapshotter_filled_bytes_total",
			Help: "Bytes of files that were brought to disk.",
		}),
		resolved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_layers_resolved_total",
			Help: "Layers by how their tree came to be known: index (kept from before), toc (in the blob), cluster (an index of another host), registry (an index beside the image), unpacked, failed.",
		}, []string{"result"}),
		late: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfsnapshotter_late_indexes_total",
			Help: "Indexes of other hosts and of registries that came while their layer was being unpacked, by what became of that: mounted (by the index), unpacked (nearly all was here).",
		}, []string{"result"}),
	}
	m.profiles = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfsnapshotter_profiles_total",
		Help: "Lazy layers by who said what their image's containers read first: cluster, host (this one, from before), image (an eStargz landmark), none.",
	}, []string{"from"})
	m.recorded = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "dfsnapshotter_profiles_recorded_total",
		Help: "Layers of which the first container's first minute was recorded.",
	})
	m.boots = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfsnapshotter_boot_packs_total",
		Help: "Boot packs of layers: made here and given to others; used; failed, so that what is in them was fetched piecewise.",
	}, []string{"result"})
	starts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dfsnapshotter_start_reads_total",
		Help: "Reads of lazy layers in the first minute of their first container, by how long they waited for bytes: none, short (less than 20 ms), long.",
	}, []string{"wait"})
	m.startReads = startReads{starts.WithLabelValues("none"), starts.WithLabelValues("short"), starts.WithLabelValues("long")}
	if reg != nil {
		reg.MustRegister(m.onDemand, m.filled, m.resolved, m.late, m.profiles, m.recorded, m.boots, starts)
	}
	return m
}

// observe registers what is counted when asked.
func (m *metrics) observe(f *FS) {
	if m.reg != nil {
		m.reg.MustRegister(collector{f})
	}
}

var (
	misledDesc = prometheus.NewDesc("dfsnapshotter_containers_misled", "Containers that have been given a layer that was refused later; the log names them.", nil, nil)
	layersDesc = prometheus.NewDesc("dfsnapshotter_layers", "Layers by state.", []string{"state"}, nil)
	partDesc   = prometheus.NewDesc("dfsnapshotter_filled_ratio", "Part of the chunks of all layers that is on disk.", nil, nil)
)

// collector counts the layers at each scrape.
type collector struct{ fs *FS }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- layersDesc
	ch <- partDesc
	ch <- misledDesc
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	count := map[State]int{Lazy: 0, Filled: 0, Complete: 0, Refused: 0}
	var have, all, misled int
	for _, s := range c.fs.Status() {
		if count[s.State]++; s.State == Refused {
			misled += len(c.fs.containersOf(s.ID))
		}
		have, all = have+s.Filled, all+s.Chunks
	}
	for state, n := range count {
		ch <- prometheus.MustNewConstMetric(layersDesc, prometheus.GaugeValue, float64(n), string(state))
	}
	ch <- prometheus.MustNewConstMetric(misledDesc, prometheus.GaugeValue, float64(misled))
	part := 1.0
	if all > 0 {
		part = float64(have) / float64(all)
	}
	ch <- prometheus.MustNewConstMetric(partDesc, prometheus.GaugeValue, part)
}
