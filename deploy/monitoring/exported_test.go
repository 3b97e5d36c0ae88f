package monitoring

import (
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

var (
	// vector is a metric that is exported only once something has been counted.
	vector  = regexp.MustCompile(`New(Counter|Gauge|Histogram)Vec\(prometheus\.\w+\{\s*Name:\s+"([a-z_]+)"(?s:.*?)\}, \[\]string\{([^}]*)\}`)
	literal = regexp.MustCompile(`"([a-z0-9_]+)"`)
	sample  = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})?$`)
	pair    = regexp.MustCompile(`([a-z_]+)="[^"]*"`)
)

// exported starts a scheduler, a manager and an agent, asks them for their metrics, and
// adds those of which nothing has been counted yet, from the sources.
func exported(t *testing.T) catalog {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing: root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("missing: /dev/fuse")
	}
	c := catalog{labels: map[string][]string{}, values: map[string]bool{}}
	for _, text := range sources(t) {
		for _, m := range vector.FindAllStringSubmatch(text, -1) {
			var labels []string
			for _, l := range literal.FindAllStringSubmatch(m[3], -1) {
				labels = append(labels, l[1])
			}
			c.add(m[2], m[1] == "Histogram", labels)
		}
		for _, m := range literal.FindAllStringSubmatch(text, -1) {
			c.values[m[1]] = true
		}
	}
	if len(c.labels) < 30 {
		t.Fatalf("only %d metrics in the sources", len(c.labels))
	}
	for name := range scraped(t) {
		m := sample.FindStringSubmatch(name)
		if m == nil {
			t.Fatalf("a program exports %q", name)
		}
		var labels []string
		for _, l := range pair.FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		c.labels[m[1]] = labels
	}
	return c
}

func (c catalog) add(name string, histogram bool, labels []string) {
	if !histogram {
		c.labels[name] = labels
		return
	}
	c.labels[name+"_count"], c.labels[name+"_sum"] = labels, labels
	c.labels[name+"_bucket"] = append([]string{"le"}, labels...)
}

// scraped returns what programs that have just been started export.
func scraped(t *testing.T) map[string]float64 {
	t.Helper()
	l, err := lab.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	all, err := scrape(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func scrape(ctx context.Context, l *lab.Lab) (map[string]float64, error) {
	net, err := l.Network(false)
	if err != nil {
		return nil, err
	}
	at, err := net.Host("box", lab.Link{})
	if err != nil {
		return nil, err
	}
	scheduler, err := at.Scheduler(ctx, "[tls]\ninsecure = true\n")
	if err != nil {
		return nil, err
	}
	manager, err := at.Manager(ctx, "")
	if err != nil {
		return nil, err
	}
	agent, err := at.Daemon(ctx, "[peer]\nschedulers = ['"+scheduler.Addr+"']\n[tls]\ninsecure = true\n")
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	var errs []error
	for _, metrics := range []func(context.Context) (map[string]float64, error){scheduler.Metrics, manager.Metrics, agent.Metrics} {
		some, err := metrics(ctx)
		errs = append(errs, err)
		maps.Copy(all, some)
	}
	return all, errors.Join(errs...)
}
