package web_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// harbor does what Harbor's drivers for Dragonfly do: the same requests with the
// same fields, and it understands as little of the answers.
type harbor struct {
	endpoint string
	mode     string            // NONE, BASIC, OAUTH or CUSTOM
	info     map[string]string // for the mode
	newer    bool              // from 2.12 on
}

// request is Harbor's HTTP client: what is not 2xx is an error with the body.
func (h harbor) request(method, path string, body any) ([]byte, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, strings.TrimSuffix(h.endpoint, "/")+path, r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range h.info { // the one there is
		switch h.mode {
		case "BASIC":
			req.SetBasicAuth(k, v)
		case "OAUTH":
			req.Header.Set("Authorization", "Bearer "+h.info["token"])
		case "CUSTOM":
			req.Header.Set(k, v)
		}
	}
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 || resp.StatusCode == http.StatusAlreadyReported {
		return nil, fmt.Errorf("http error: code %d, message %s", resp.StatusCode, data)
	}
	return data, nil
}

func (h harbor) health() error {
	path := "/_ping"
	if h.newer {
		path = "/healthy"
	}
	_, err := h.request("GET", path, nil)
	return err
}

func (h harbor) preheat(url, tag string, headers map[string]string) (id string, err error) {
	if !h.newer {
		data, err := h.request("POST", "/preheats", map[string]any{
			"type": "image", "url": url, "headers": headers, "image": "p/app", "tag": tag, "digest": digest.FromString(tag),
		})
		var v struct {
			ID string `json:"ID"`
		}
		return v.ID, errors.Join(err, unmarshal(data, &v, func() { id = v.ID }))
	}
	data, err := h.request("POST", "/oapi/v1/jobs", map[string]any{
		"type": "preheat",
		"args": map[string]any{
			"type": "image", "url": url, "tag": "", "filtered_query_params": "", "headers": headers, "scope": "", "concurrent_count": 0, "timeout": 0,
		},
		"scheduler_cluster_ids": nil,
	})
	var v answer
	err = errors.Join(err, unmarshal(data, &v, func() {}))
	return fmt.Sprint(v.ID), err
}

// answer is what Harbor from 2.12 on reads.
type answer struct {
	ID        int       `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	State     string    `json:"state"`
	Result    struct {
		JobStates []struct {
			Error   string `json:"error"`
			Results []struct {
				SuccessTasks []task `json:"success_tasks"`
				FailureTasks []task `json:"failure_tasks"`
				Cluster      uint   `json:"scheduler_cluster_id"`
			} `json:"results"`
		} `json:"job_states"`
	} `json:"result"`
}

type task struct {
	URL         string `json:"url"`
	Hostname    string `json:"hostname"`
	IP          string `json:"ip"`
	Description string `json:"description"`
}

func unmarshal(data []byte, v any, then func()) error {
	if data == nil {
		return nil
	}
	defer then()
	return json.Unmarshal(data, v)
}

// poll asks as often as Harbor, but faster, until the job has ended.
func (h harbor) poll(t *testing.T, id string) (status, message string) {
	t.Helper()
	for range 1000 {
		if h.newer {
			var v answer
			data, err := h.request("GET", "/oapi/v1/jobs/"+id, nil)
			if err := errors.Join(err, unmarshal(data, &v, func() {})); err != nil {
				t.Fatal(err) // Harbor's job fails with that
			}
			switch v.State {
			case "PENDING":
			case "SUCCESS":
				for _, s := range v.Result.JobStates {
					for _, r := range s.Results {
						message += fmt.Sprintf("%d on %s (%s), %d failed", len(r.SuccessTasks), r.SuccessTasks[0].Hostname, r.SuccessTasks[0].IP, len(r.FailureTasks))
					}
				}
				return "SUCCESS", message
			case "FAILURE":
				for _, s := range v.Result.JobStates {
					message += s.Error
				}
				return "FAIL", message
			default:
				t.Fatalf("state %q", v.State)
			}
		} else {
			var v struct {
				ID         string `json:"ID"`
				StartTime  string `json:"startTime,omitempty"`
				FinishTime string `json:"finishTime,omitempty"`
				ErrorMsg   string `json:"errorMsg"`
				Status     string
			}
			data, err := h.request("GET", "/preheats/"+id, nil)
			if err := errors.Join(err, unmarshal(data, &v, func() {})); err != nil || v.ID != id {
				t.Fatal(v, err)
			}
			switch v.Status {
			case "WAITING", "RUNNING":
			case "SUCCESS", "FAIL":
				if _, err := time.Parse(time.RFC3339, v.FinishTime); err != nil {
					t.Error(err)
				}
				return v.Status, v.ErrorMsg
			default:
				t.Fatalf("status %q", v.Status)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the job does not end")
	return "", ""
}

// push adds an image to a registry.
func push(t *testing.T, r *origintest.Registry, tag string) (url string) {
	t.Helper()
	blob := func(s string) map[string]any {
		return map[string]any{"digest": digest.FromString(s), "size": len(s), "mediaType": "x"}
	}
	const kind = "application/vnd.docker.distribution.manifest.v2+json"
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": kind, "config": blob("config"), "layers": []any{blob("layer of " + tag)}})
	if err != nil {
		t.Fatal(err)
	}
	r.Tag("p/app", tag, r.AddManifest("p/app", kind, data))
	return r.URL() + "/v2/p/app/manifests/" + tag
}

func TestHarbor(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *web.Config) { c.OpenTo = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	closed := newEnv(t)
	users := map[string]string{"robot": "secret"}
	r := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users})
	url := push(t, r, "v1")
	token := func(e *env) string { return e.token("operator", "preheat") }
	robot := map[string]string{"Authorization": "Basic cm9ib3Q6c2VjcmV0"}
	for _, newer := range []bool{false, true} {
		for name, h := range map[string]harbor{
			"none":                    {endpoint: e.url, mode: "NONE"},
			"basic with password":     {endpoint: closed.url, mode: "BASIC", info: map[string]string{"operator": password}},
			"basic with token":        {endpoint: closed.url + "/", mode: "BASIC", info: map[string]string{"operator": token(closed)}},
			"oauth":                   {endpoint: closed.url, mode: "OAUTH", info: map[string]string{"token": token(closed)}},
			"custom":                  {endpoint: closed.url, mode: "CUSTOM", info: map[string]string{"X-Dfmanager-Token": token(closed)}},
			"credentials though open": {endpoint: e.url, mode: "OAUTH", info: map[string]string{"token": token(e)}},
		} {
			h.newer = newer
			name := fmt.Sprintf("%s, newer %v", name, newer)
			if err := h.health(); err != nil {
				t.Errorf("%s: health: %v", name, err)
			}
			id, err := h.preheat(url, "v1", robot)
			if err != nil || id == "" {
				t.Fatalf("%s: preheat: %q, %v", name, id, err)
			}
			if status, say := h.poll(t, id); status != "SUCCESS" || newer && say != "2 on seed-1 (192.0.2.1), 0 failed" {
				t.Errorf("%s: %s %s", name, status, say)
			}
			for image, want := range map[string]string{
				r.URL() + "/v2/p/app/manifests/none":      "no such image",
				"http://127.0.0.1:1/v2/p/app/manifests/1": "does not answer",
			} {
				if id, err = h.preheat(image, "1", robot); err != nil {
					t.Fatal(err)
				}
				if status, say := h.poll(t, id); status != "FAIL" || !strings.Contains(say, want) {
					t.Errorf("%s: %s: %s %q", name, image, status, say)
				}
			}
			if id, err = h.preheat(url, "v1", map[string]string{"Authorization": "Bearer expired"}); err != nil {
				t.Fatal(err)
			}
			if status, say := h.poll(t, id); status != "FAIL" || !strings.Contains(say, "refuses the credentials") || strings.Contains(say, "expired\"") {
				t.Errorf("%s: expired: %s %q", name, status, say)
			}
			for bad, want := range map[string]string{"https://h/nothing": "manifests", "ftp://x/v2/a/manifests/1": "https"} {
				if _, err := h.preheat(bad, "1", nil); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %s: %v", name, bad, err)
				}
			}
		}
		for name, h := range map[string]harbor{
			"nobody":         {endpoint: closed.url, mode: "NONE"},
			"wrong password": {endpoint: closed.url, mode: "BASIC", info: map[string]string{"root": "wrong password"}},
			"wrong token":    {endpoint: closed.url, mode: "OAUTH", info: map[string]string{"token": "dfm_x"}},
			"wrong header":   {endpoint: closed.url, mode: "CUSTOM", info: map[string]string{"X-Dfmanager-Token": "x"}},
			"guest":          {endpoint: closed.url, mode: "BASIC", info: map[string]string{"guest": password}},
			"reader":         {endpoint: closed.url, mode: "OAUTH", info: map[string]string{"token": closed.token("root", "read")}},
		} {
			h.newer = newer
			good := name == "nobody" || name == "guest" || name == "reader" // the manager is there, and knows them
			if err := h.health(); (err == nil) != good {
				t.Errorf("%s: health: %v", name, err)
			}
			if _, err := h.preheat(url, "v1", nil); err == nil || !strings.Contains(err.Error(), "code 40") || !strings.Contains(err.Error(), "message") {
				t.Errorf("%s: preheat: %v", name, err)
			}
		}
	}
	for _, e := range []*env{e, closed} {
		if all := e.log.String(); strings.Contains(all, "cm9ib3Q6") || strings.Contains(all, "secret") {
			t.Error("the registry's credentials are logged")
		}
		text := e.do("GET", "/api/v1/jobs?limit=200", "", e.session("root")).text + e.do("GET", "/api/v1/audit?limit=200", "", e.session("root")).text
		if strings.Contains(text, "cm9ib3Q6") || strings.Contains(text, "robot") {
			t.Error("the registry's credentials are shown")
		}
	}
}

func TestDeadSeed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.runs.set(warm.ErrNoSeed, nil)
	r := origintest.New(t, origintest.Options{})
	for _, newer := range []bool{false, true} {
		h := harbor{endpoint: e.url, mode: "OAUTH", info: map[string]string{"token": e.token("operator", "preheat")}, newer: newer}
		id, err := h.preheat(push(t, r, "v1"), "v1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, say := h.poll(t, id); status != "FAIL" || !strings.Contains(say, "no seed that is alive") {
			t.Errorf("%s %s", status, say)
		}
	}
}

func TestWhatDragonflyTakesAndThisDoesNot(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	op := e.session("operator")
	for body, want := range map[string]string{
		`{"type":"sync_peers"}`: "sync_peers",
		`{"type":"preheat","args":{"type":"model","url":"https://h/v2/a/manifests/1"}}`:                                       "only image and file",
		`{"type":"preheat","args":{"type":"file","url":"ftp://h/a"}}`:                                                         "begin with http",
		`{"type":"preheat","args":{"type":"image","url":"https://h/v2/a/manifests/1","scope":"all_the_peers"}}`:               "single_seed_peer",
		`{"type":"preheat","args":{"type":"image","url":"https://h/v2/a/manifests/1","platform":"x"}}`:                        "linux/amd64",
		`{"type":"preheat","args":{"type":"image","url":"https://h/v2/a/manifests/1","headers":{"authorization":"\u0000"}}}`:  "printable",
		`{"type":"preheat","args":{"type":"image","url":"https://h/v2/a/manifests/1"},"scheduler_cluster_ids":[1,2]}`:         "one at a time",
		`{"type":"preheat","args":{"type":"file","urls":["https://h/a","https://h/b"]}}`:                                      "one at a time",
		`{"type":"preheat","args":{"type":"image","url":"https://h/v2/a/manifests/1","scope":"all_peers","ips":["1.2.3.4"]}}`: "not supported",
		`{"type":"preheat","args":{"type":"image","url":"https://h/v2/a/manifests/1"},"scheduler_cluster_ids":[9]}`:           "no such cluster",
	} {
		if r := e.do("POST", "/oapi/v1/jobs", body, op); r.status != 400 || !strings.Contains(r.text, want) {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
	for _, path := range []string{"/oapi/v1/jobs/99", "/preheats/99", "/preheats/x", "/oapi/v1/jobs/", "/oapi/v1/clusters", "/v2/"} {
		if r := e.do("GET", path, "", op); r.status != 404 || r.code() != "not_found" {
			t.Errorf("%s: %d %s", path, r.status, r.text)
		}
	}
}

// The cluster that is asked for is the one of which Harbor is told.
func TestHarborNamesACluster(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	k := e.withCluster()
	r := origintest.New(t, origintest.Options{})
	body := fmt.Sprintf(`{"type":"preheat","args":{"type":"image","url":%q},"scheduler_cluster_ids":[%d]}`, push(t, r, "v1"), k.ID)
	var v answer
	e.want(200, e.do("POST", "/oapi/v1/jobs", body, e.session("operator"))).into(t, &v)
	h := harbor{endpoint: e.url, mode: "OAUTH", info: map[string]string{"token": e.token("operator", "preheat")}, newer: true}
	if status, say := h.poll(t, fmt.Sprint(v.ID)); status != "SUCCESS" {
		t.Fatalf("%s %s", status, say)
	}
	e.want(200, e.do("GET", fmt.Sprintf("/oapi/v1/jobs/%d", v.ID), "", e.session("guest"))).into(t, &v)
	if got := v.Result.JobStates[0].Results[0].Cluster; int64(got) != k.ID {
		t.Errorf("cluster %d", got)
	}
}

// What users of Dragonfly send, besides Harbor.
func TestDragonflyWithPassword(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"jane": "secret"}})
	url := push(t, r, "v1")
	h := harbor{endpoint: e.url, mode: "OAUTH", info: map[string]string{"token": e.token("operator", "preheat")}, newer: true}
	for password, want := range map[string]string{"secret": "SUCCESS", "wrong": "FAIL"} {
		body := fmt.Sprintf(`{"type":"preheat","args":{"type":"image","url":%q,"username":"jane","password":%q,"scope":"single_seed_peer","concurrent_peer_count":10}}`, url, password)
		var v answer
		rep := e.want(200, e.do("POST", "/oapi/v1/jobs", body, e.session("operator")))
		rep.into(t, &v)
		if status, say := h.poll(t, fmt.Sprint(v.ID)); status != want || strings.Contains(rep.text+say, password) {
			t.Errorf("%s: %s %s", password, status, say)
		}
	}
}

func TestNotifications(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := origintest.New(t, origintest.Options{})
	url := push(t, r, "v1")
	event := func(action, url string) string {
		return fmt.Sprintf(`{"id":"x","timestamp":"2026-01-01T00:00:00Z","action":%q,"target":{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"sha256:x","repository":"p/app","url":%q,"tag":"v1"}}`, action, url)
	}
	body := `{"events":[` + strings.Join([]string{event("push", url), event("pull", url), event("push", r.URL()+"/v2/p/app/blobs/sha256:x"), event("delete", "")}, ",") + `]}`
	with := bearer(e.token("operator", "preheat"))
	rep := e.want(200, e.do("POST", "/registry/notifications", body, with, header("Content-Type", "application/vnd.docker.distribution.events.v1+json")))
	var v struct{ Jobs []int64 }
	rep.into(t, &v)
	if len(v.Jobs) != 1 {
		t.Fatalf("%s", rep.text)
	}
	h := harbor{endpoint: e.url, mode: "OAUTH", info: map[string]string{"token": e.token("guest", "read")}}
	if status, say := h.poll(t, fmt.Sprint(v.Jobs[0])); status != "SUCCESS" {
		t.Errorf("%s %s", status, say)
	}
	many := `{"events":[` + strings.Repeat(event("pull", "")+",", 100) + event("pull", "") + `]}`
	e.want(413, e.do("POST", "/registry/notifications", many, with))
	e.want(400, e.do("POST", "/registry/notifications", `{"events":[`+event("push", "x/manifests/")+`]}`, with))
}

func TestJobs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := origintest.New(t, origintest.Options{})
	push(t, r, "v1")
	op := e.session("operator")
	hold := make(chan struct{})
	e.runs.set(nil, hold)
	create := func(body string) (v struct {
		ID    int64
		State string
		Error string
		Tries int `json:"failed_tries"`
		URL   string
	}) {
		e.want(201, e.do("POST", "/api/v1/jobs", body, op)).into(t, &v)
		return v
	}
	j := create(fmt.Sprintf(`{"image":%q,"plain_http":true}`, r.Host()+"/p/app:v1"))
	if j.URL != r.URL()+"/v2/p/app/manifests/v1" {
		t.Errorf("%+v", j)
	}
	second := create(fmt.Sprintf(`{"url":%q,"platforms":["linux/amd64"],"registry_user":"u","registry_password":"very-secret"}`, r.URL()+"/v2/p/app/manifests/v1"))
	wait := func(id int64, state string) {
		t.Helper()
		for range 1000 {
			e.want(200, e.do("GET", fmt.Sprintf("/api/v1/jobs/%d", id), "", op)).into(t, &j)
			if j.State == state {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("job %d is %s (%s), not %s", id, j.State, j.Error, state)
	}
	wait(j.ID, "running")
	e.want(200, e.do("POST", fmt.Sprintf("/api/v1/jobs/%d/cancel", second.ID), "", op))
	wait(second.ID, "cancelled")
	if r := e.do("POST", fmt.Sprintf("/api/v1/jobs/%d/cancel", second.ID), "", op); r.status != 409 {
		t.Errorf("cancelled again: %d %s", r.status, r.text)
	}
	close(hold)
	wait(second.ID-1, "succeeded")
	var blobs struct {
		Items []struct {
			Digest, Host, State string
			Size                int64
			Got                 int64 `json:"in_place"`
		}
	}
	rep := e.want(200, e.do("GET", fmt.Sprintf("/api/v1/jobs/%d/blobs", second.ID-1), "", e.session("guest")))
	rep.into(t, &blobs)
	if len(blobs.Items) != 2 || blobs.Items[0].Got != blobs.Items[0].Size || blobs.Items[0].Host != "seed-1" {
		t.Errorf("%s", rep.text)
	}
	list := e.want(200, e.do("GET", "/api/v1/jobs?state=cancelled", "", op)).text
	if strings.Count(list, `"id"`) != 1 || strings.Contains(list, "very-secret") {
		t.Errorf("%s", list)
	}
	for body, say := range map[string]string{
		`{}`: "image", `{"image":"A B"}`: "image", `{"url":"x"}`: "url", `{"image":"a","url":"https://h/v2/a/manifests/1"}`: "together",
		`{"image":"a","platforms":["linux"]}`: "platforms", `{"image":"a","registry_token":"x","registry_user":"u"}`: "registry_token",
	} {
		if r := e.do("POST", "/api/v1/jobs", body, op); r.status != 400 || !strings.Contains(r.text, say) {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
	e.want(400, e.do("GET", "/api/v1/jobs?state=odd", "", op))
}

func TestAnonymousOnlyWhereItIsOpen(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *web.Config) {
		c.OpenTo = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	body := `{"type":"image","url":"https://h.invalid/v2/a/manifests/1"}`
	e.want(401, e.do("POST", "/preheats", body))
	e.want(401, e.do("POST", "/preheats", body, header("X-Forwarded-For", "192.0.2.7, 198.51.100.1")))
	inside := header("X-Forwarded-For", "192.0.2.7")
	e.want(200, e.do("POST", "/preheats", body, inside))
	for path := range e.documented() {
		if strings.HasPrefix(path, "/api/") && path != "/api/v1/session" {
			if r := e.do("GET", strings.NewReplacer("{id}", "1", "{token}", "1").Replace(path), "", inside); r.status != 401 && r.status != 405 {
				t.Errorf("%s: %d", path, r.status)
			}
		}
	}
}
