// Package doctor finds out what keeps an agent, and the containerd that uses it, from
// doing what they are for, and says what to change.
package doctor

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/containerd"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
)

// State is how something is.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, but somebody should look
	Failed  State = "failed"
	Skipped State = "skipped" // it could not be looked at
)

// Finding is what one check found.
type Finding struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // what to do, or to write where
}

// Doctor says what is looked at.
type Doctor struct {
	Socket      string // of the agent
	Containerd  string // socket of containerd; "": none
	Snapshotter string // name of the proxy plugin
	Kubernetes  bool   // kubelets use this containerd
	Pull        bool   // make test pulls
	Manager     string // URL of a manager that is known; "": none

	findings []Finding
	status   *agent.Status      // nil: the agent does not answer
	client   *containerd.Client // nil: containerd does not answer
	process  containerd.Process
	version  string
}

// Check looks at everything and returns what it found.
func (d *Doctor) Check(ctx context.Context) []Finding {
	d.checkAgent(ctx)
	if d.status != nil {
		d.checkDisk()
		d.checkCluster()
		d.checkMirror(ctx)
	}
	d.checkClock(ctx)
	if d.Containerd == "" || d.status != nil && d.status.Address == "" {
		d.found("containerd", Skipped, "the agent mounts nothing for it", "")
		return d.findings
	}
	d.checkContainerd(ctx)
	if d.client != nil {
		defer func() { _ = d.client.Close() }() // it was only asked
		if d.status != nil {
			d.checkMount(ctx)
			d.checkPulls(ctx)
		}
	}
	return d.findings
}

// Worst returns the worst state of findings: what is skipped is as good as ok.
func Worst(all []Finding) State {
	worst := OK
	for _, f := range all {
		if f.State == Failed || f.State == Warning && worst == OK {
			worst = f.State
		}
	}
	return worst
}

func (d *Doctor) found(check string, s State, text, fix string) {
	d.findings = append(d.findings, Finding{check, s, text, fix})
}

func (d *Doctor) checkAgent(ctx context.Context) {
	var s agent.Status
	if err := agent.Get(ctx, d.Socket, "/v1/status", &s); err != nil {
		d.found("agent", Failed, err.Error(), "systemctl start dfsnapshotter; its log says why it has ended: journalctl -u dfsnapshotter\nIs "+d.Socket+" its status.sock (--agent), and are you root?")
		return
	}
	d.status = &s
	d.found("agent", OK, fmt.Sprintf("version %s, process %d", s.Version, s.PID), "")
}

// fillsAbove is which part of the disk must be free so that layers fill.
const fillsAbove = 0.15

func (d *Doctor) checkDisk() {
	c := d.status.Cache
	switch part := float64(c.Free) / float64(max(c.Disk, 1)); {
	case c.Disk == 0:
		d.found("disk", Skipped, "the agent cannot say how full it is", "")
	case part < fillsAbove:
		d.found("disk", Warning, fmt.Sprintf("%.0f %% of the disk of %s are free: below %.0f %% layers do not fill", part*100, d.status.Root, fillsAbove*100),
			"Remove what is not needed (dfget cache ls, crictl rmi --prune), or give it a larger disk.")
	default:
		d.found("disk", OK, fmt.Sprintf("%.0f %% are free", part*100), "")
	}
}

// checkMirror asks the registry mirror, and through it its registry.
func (d *Doctor) checkMirror(ctx context.Context) {
	s := d.status
	if s.Mirror == "" {
		d.found("mirror", Skipped, "the agent is no registry mirror", "")
		return
	}
	a, err := get(ctx, "http://"+s.Mirror+"/v2/")
	switch {
	case err != nil:
		d.found("mirror", Failed, err.Error(), "Look at mirror.listen in "+s.Config+", and at the agent's log.")
	case s.Upstream == "":
		d.found("mirror", OK, "at "+s.Mirror, "")
	case a.code >= http.StatusInternalServerError:
		d.found("mirror", Warning, fmt.Sprintf("its registry %s cannot be reached: the mirror answers %s", s.Upstream, a.status),
			"Look at DNS, HTTPS_PROXY and hosts.toml files below "+s.HostsDir+". Other registries may be reached.")
	default:
		d.found("mirror", OK, fmt.Sprintf("at %s, of %s", s.Mirror, s.Upstream), "")
	}
}

// answer is the head of an answer.
type answer struct {
	code         int
	status, date string
}

// get asks for a URL.
func get(ctx context.Context, url string) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return a, err
	}
	return answer{resp.StatusCode, resp.Status, resp.Header.Get("Date")}, resp.Body.Close()
}
