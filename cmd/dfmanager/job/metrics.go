package job

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	ended *prometheus.CounterVec
	bytes prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Runner) (*metrics, error) {
	m := &metrics{
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dfmanager_job_runs_total",
			Help: "Tries to do a job, by how they ended: succeeded, failed, cancelled, again (later), returned (at a stop), lost (to another manager) or error.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dfmanager_preheated_bytes_total", Help: "Bytes of blobs that jobs found to be in place.",
		}),
	}
	running := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dfmanager_jobs_running", Help: "Jobs that this manager is working on.",
	}, func() float64 { return float64(len(r.slots)) })
	return m, errors.Join(reg.Register(m.ended), reg.Register(m.bytes), reg.Register(running))
}
