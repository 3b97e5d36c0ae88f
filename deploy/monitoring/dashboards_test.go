package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	grafana "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"sigs.k8s.io/yaml"
)

// known has Grafana's types know those of panels and of Prometheus.
var known = sync.OnceFunc(plugins.RegisterDefaultPlugins)

// file is a dashboard as files have it that all of Grafana's versions in use read.
type file = dashboard.Dashboard //nolint:staticcheck // its successor is for Grafana's new API

// board is a dashboard and its panels, rows aside.
type board struct {
	file
	panels []dashboard.Panel
}

// dashboards decodes the dashboards into Grafana's types, which refuse what they do
// not know.
func dashboards(t *testing.T) map[string]board {
	t.Helper()
	known()
	files, err := filepath.Glob("dashboards/*.json")
	if err != nil || len(files) != 3 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	all := map[string]board{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var b board
		if err := decode(text, &b.file); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, p := range b.Panels {
			switch {
			case p.Panel != nil:
				b.panels = append(b.panels, *p.Panel)
			case len(p.RowPanel.Panels) > 0:
				t.Errorf("%s: the row %s is folded", f, *p.RowPanel.Title)
			}
		}
		all[filepath.Base(f)] = b
	}
	return all
}

// decode refuses what Grafana's types do not know.
func decode(text []byte, d *file) error {
	var problems cog.BuildErrors
	// It returns a list even if nothing is wrong, and stops where it sees one.
	if err := new(file).UnmarshalJSONStrict(text); err != nil && (!errors.As(err, &problems) || len(problems) > 0) {
		return err
	}
	return json.Unmarshal(text, d)
}

// TestDecode finds mistakes at each depth.
func TestDecode(t *testing.T) {
	t.Parallel()
	dashboards(t)
	text, err := os.ReadFile("dashboards/nodes.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, mistake := range []struct{ right, wrong string }{
		{`"refresh":`, `"refreshed":`},
		{`"graphMode":`, `"graphMod":`},
		{`"fillOpacity": 30`, `"fillOpacity": "30"`},
		{`"expr":`, `"exp":`},
		{`"gridPos": {"h": 8`, `"gridPos": {"height": 8`},
		{`"includeAll":`, `"all":`},
	} {
		wrong := strings.Replace(string(text), mistake.right, mistake.wrong, 1)
		if err := decode([]byte(wrong), &file{}); wrong == string(text) || err == nil {
			t.Errorf("%s is taken for right: %v", mistake.wrong, err)
		}
	}
}

// exprs returns what a dashboard asks Prometheus, by the title of the panel.
func (b board) exprs() map[string]string {
	all := map[string]string{}
	for _, p := range b.panels {
		for _, q := range p.Targets {
			target := q.(*grafana.Dataquery)
			all[*b.Title+": "+*p.Title+" "+*target.RefId] = target.Expr
		}
	}
	for _, v := range b.Templating.List {
		if v.Type == dashboard.VariableTypeQuery {
			all[*b.Title+": "+v.Name] = strings.TrimSuffix(strings.TrimPrefix(*v.Query.String, "label_values("), ", instance)")
		}
	}
	return all
}

// TestDashboards has promtool read what dashboards ask, and looks at how they are
// laid out.
func TestDashboards(t *testing.T) {
	t.Parallel()
	type record struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var records []record
	for name, b := range dashboards(t) {
		ids, cells := map[uint32]bool{}, map[[2]uint32]string{}
		for _, p := range b.panels {
			if ids[*p.Id] {
				t.Errorf("%s: two panels have the number %d", name, *p.Id)
			}
			ids[*p.Id] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := cells[[2]uint32{x, y}]; other != "" || x >= 24 {
						t.Errorf("%s: %s lies over %s, or out of sight", name, *p.Title, other)
					}
					cells[[2]uint32{x, y}] = *p.Title
				}
			}
		}
		variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h", "$instance", ".*")
		for _, expr := range b.exprs() {
			if !strings.Contains(expr, "$instance") && strings.Contains(expr, "{") {
				t.Errorf("%s is asked of all instances", expr)
			}
			records = append(records, record{fmt.Sprintf("expr_%d", len(records)), variables.Replace(expr)})
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboards", "rules": records}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	prometheus(t, "check", "rules", "--lint-fatal", path)
}
