// Package helm tests the chart beside it.
package helm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"
)

const chart = "dfsnapshotter"

// helm runs the tool and returns what it prints, with its errors if it fails.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	tool, err := filepath.Abs("../../.tools/bin/helm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tool); err != nil {
		t.Skip("missing: .tools/bin/helm (script/install-deps)")
	}
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil // warnings aside
}

// decoder knows Kubernetes' types and refuses unknown and repeated fields.
func decoder(t *testing.T) runtime.Decoder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// operators are kinds of the Prometheus operator, whose types are not known here.
var operators = map[string][]string{
	"PodMonitor":     {"selector", "podMetricsEndpoints"},
	"PrometheusRule": {"groups"},
}

func TestChart(t *testing.T) {
	t.Parallel()
	sets, err := filepath.Glob(chart + "/ci/*-values.yaml")
	if err != nil || len(sets) < 4 {
		t.Fatalf("%d sets of values, %v", len(sets), err)
	}
	programs := build(t)
	for _, values := range sets {
		t.Run(filepath.Base(values), func(t *testing.T) {
			t.Parallel()
			if out, err := helm(t, "lint", "--strict", chart, "-f", values); err != nil {
				t.Fatal(err, out)
			}
			out, err := helm(t, "template", "df", chart, "--kube-version", "v1.33.0", "-n", "df", "-f", values)
			if err != nil {
				t.Fatal(err, out)
			}
			kinds := map[string]int{}
			for _, doc := range strings.Split("\n"+out, "\n---") {
				if kind := check(t, decoder(t), programs, doc); kind != "" {
					kinds[kind]++
				}
			}
			want := map[string]bool{"Deployment": true, "StatefulSet": true, "Role": true, "Service": true}
			want["DaemonSet"] = !strings.Contains(values, "no-nodes")
			for _, k := range []string{"PodMonitor", "PrometheusRule", "NetworkPolicy", "Ingress", "PodDisruptionBudget"} {
				if strings.Contains(values, "postgres") {
					want[k] = true
				}
			}
			if full := strings.Contains(values, "postgres"); full != (strings.Count(out, `"uid": "dfsnapshotter-`) == 3) {
				t.Errorf("dashboards are there: %t", !full)
			}
			for k, w := range want {
				if w != (kinds[k] > 0) {
					t.Errorf("%d of kind %s", kinds[k], k)
				}
			}
		})
	}
}

// check decodes a manifest, and has the programs look at configurations in it.
func check(t *testing.T, dec runtime.Decoder, programs, doc string) (kind string) {
	t.Helper()
	var any struct {
		APIVersion, Kind string
		Spec             map[string]any
	}
	if err := yaml.Unmarshal([]byte(doc), &any); err != nil {
		t.Errorf("%v\n%s", err, doc)
	}
	if any.Kind == "" {
		return ""
	}
	if keys, ok := operators[any.Kind]; ok {
		for _, k := range keys {
			if any.APIVersion != "monitoring.coreos.com/v1" || any.Spec[k] == nil {
				t.Errorf("%s of %s lacks %s", any.Kind, any.APIVersion, k)
			}
		}
		return any.Kind
	}
	obj, _, err := dec.Decode([]byte(doc), nil, nil)
	if err != nil {
		t.Errorf("%v\n%s", err, doc)
		return any.Kind
	}
	files := map[string]string{}
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		files = o.Data
	case *corev1.Secret:
		files = o.StringData
	case *appsv1.DaemonSet:
		node(t, o)
	}
	for name, text := range files {
		if !strings.HasSuffix(name, ".toml") {
			continue // a dashboard
		}
		// As `dfsnapshotter node` does with the address of a service.
		text = strings.ReplaceAll(text, "${DF_DFSNAPSHOTTER_MANAGER_SERVICE_HOST}", "10.0.0.1")
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(programs, strings.TrimSuffix(name, ".toml")), "config", "check", path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s\n%s", name, err, out, text)
		}
	}
	return any.Kind
}

// node looks at what makes the agent outlive its pods.
func node(t *testing.T, d *appsv1.DaemonSet) {
	t.Helper()
	c := d.Spec.Template.Spec.Containers[0]
	if c.Args[0] != "node" || !slices.Contains(c.Args, "--host=/host") {
		t.Errorf("the pod runs %q", c.Args)
	}
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.HostPath != nil && v.HostPath.Path == "/" {
			return
		}
	}
	t.Error("the pod does not have the machine's root")
}

// build builds the programs.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("../../script/build", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return dir
}

// TestChartRefuses gives the chart values that are wrong.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{
		"manager.replicas=2":                  "needs PostgreSQL",
		"manager.replicas=two":                "manager",
		"manager.database.url=postgres://p/x": "existingSecret with secretKey",
		"seed.cahe=1GiB":                      "cahe",
		"seed.cache=1gb":                      "cache",
		"image.registry=registry.example":     "registry",
		"manager.database.url=mysql://x":      "database",
		"networkPolicy.nodes={1}":             "nodes",
		"node.binDir=opt":                     "binDir",
		"manager.service.type=Somewhere":      "type",
		"scheduler.persistence.size=plenty":   "size",
		"monitoring.podMonitor=perhaps":       "podMonitor",
		"manager.persistence.size=5Gi,sed=1":  "sed",
		"imagePullSecrets[0].nam=x":           "nam",
		"image.pullPolicy=Sometimes":          "pullPolicy",
		"manager.ingress.enabled=1":           "enabled",
		"node.install=containerd":             "install",
		"manager.existingSecret.name=x":       "existingSecret",
		"scheduler.replicas=0":                "replicas",
		"seed.replicas=-1":                    "replicas",
		"manager.resources=none":              "resources",
		"node.tolerations.operator=Exists":    "tolerations",
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			out, err := helm(t, "template", "df", chart, "--kube-version", "v1.33.0", "--set", set)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(out, want) {
				t.Errorf("the message does not name %s: %s", want, out)
			}
		})
	}
}
