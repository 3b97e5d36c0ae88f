// Package monitoring tests the alert rules and dashboards beside it.
package monitoring

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	root     = "../.."
	promtool = root + "/.tools/clients/usr/bin/promtool"
)

// prometheus runs promtool.
func prometheus(t *testing.T, args ...string) {
	t.Helper()
	if _, err := os.Stat(promtool); err != nil {
		t.Skip("missing: promtool (script/install-deps)")
	}
	if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestRules has promtool check the rules and run their tests.
func TestRules(t *testing.T) {
	t.Parallel()
	prometheus(t, "check", "rules", "alerts.yml")
	prometheus(t, "test", "rules", "rules_test.yml")
}

// rules are as Prometheus reads them, as far as tests look.
type rules struct {
	Groups []struct {
		Rules []struct{ Alert, Expr string }
	}
}

// alerts returns the expressions of all alerts, by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var r rules
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			all[rule.Alert] = rule.Expr
		}
	}
	return all
}

// TestAlertsAreTested wants of each alert a case in which it fires, and one in which
// it does not.
func TestAlertsAreTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tests []struct {
			Rules []struct {
				Alert string `json:"alertname"`
				Fires []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, r := range test.Rules {
			fires[r.Alert] = fires[r.Alert] || len(r.Fires) > 0
			quiet[r.Alert] = quiet[r.Alert] || len(r.Fires) == 0
		}
	}
	for name := range alerts(t) {
		if !fires[name] || !quiet[name] {
			t.Errorf("%s: fires in a test: %t, does not in another: %t", name, fires[name], quiet[name])
		}
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:df(?:snapshotter|scheduler|manager)|process|go)_[a-z_]+`)
	matcher    = regexp.MustCompile(`([a-z_]+)(=~|!=|=)"([^"]*)"`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// use is what an expression takes for granted.
type use struct {
	metrics, labels []string
	values          map[string]string // of labels
}

func uses(expr string) use {
	u := use{values: map[string]string{}}
	for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
		if m[1] == "__name__" {
			continue
		}
		u.labels = append(u.labels, m[1])
		if m[2] != "=~" {
			u.values[m[3]] = m[1]
			continue
		}
		if !strings.ContainsAny(m[3], "$.") {
			for v := range strings.SplitSeq(m[3], "|") {
				u.values[v] = m[1]
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		u.labels = append(u.labels, strings.Split(m[1], ", ")...)
	}
	u.metrics = metricName.FindAllString(grouping.ReplaceAllString(matcher.ReplaceAllString(expr, ""), ""), -1)
	return u
}

// TestMetricsExist looks for each metric that alerts and dashboards use, and its
// labels, in what the programs export.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	known := exported(t)
	exprs := alerts(t)
	certificates := exprs["DfsnapshotterCertificateExpires"]
	for _, program := range []string{"dfsnapshotter", "dfscheduler", "dfmanager"} { // by a pattern
		exprs["certificate of "+program] = program + "_certificate_expiry_timestamp_seconds"
	}
	if len(uses(certificates).metrics) != 0 {
		t.Errorf("%s names metrics", certificates)
	}
	for _, d := range dashboards(t) {
		maps.Copy(exprs, d.exprs())
	}
	if len(exprs) < 80 {
		t.Errorf("only %d expressions", len(exprs))
	}
	for where, expr := range exprs {
		for _, problem := range known.check(uses(expr)) {
			t.Errorf("%s: %s: %s", where, problem, expr)
		}
	}
	for _, wrong := range []string{
		"dfsnapshotter_no_such_total", `dfsnapshotter_layers{status="lazy"}`, `dfsnapshotter_layers{state="lasy"}`,
		"sum by (state) (dfscheduler_hosts)", "dfsnapshotter_layers_bucket",
	} {
		if len(known.check(uses(wrong))) == 0 {
			t.Errorf("%s is taken for right", wrong)
		}
	}
}

// catalog is what programs export.
type catalog struct {
	labels map[string][]string // of metrics, by name
	values map[string]bool     // that labels may have
}

// check says what an expression uses that there is not.
func (c catalog) check(u use) (problems []string) {
	allowed := []string{"instance"}
	for _, m := range u.metrics {
		labels, ok := c.labels[m]
		if !ok {
			problems = append(problems, "no program exports "+m)
		}
		allowed = append(allowed, labels...)
	}
	for _, l := range u.labels {
		if len(u.metrics) > 0 && !slices.Contains(allowed, l) {
			problems = append(problems, fmt.Sprintf("no %s has a label %s", strings.Join(u.metrics, ", "), l))
		}
	}
	for value, label := range u.values {
		if !c.values[value] {
			problems = append(problems, fmt.Sprintf("no label %s is %s", label, value))
		}
	}
	return problems
}

// sources returns the programs' sources, tests aside.
func sources(t *testing.T) (texts []string) {
	t.Helper()
	for _, dir := range []string{"cmd", "fetcher", "fs", "p2p", "snapshot"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			texts = append(texts, string(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts
}
