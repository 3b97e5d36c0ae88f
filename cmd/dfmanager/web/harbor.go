package web

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// What registries call. Their programs look at the fields that are here, by
// these very names, and show their users the body of an error.

func (s *Server) registryRoutes() []route {
	create := access{role: store.Operator, scope: auth.Preheat, open: true}
	poll := access{role: store.Guest, scope: auth.Read, open: true}
	alive := func(*call) (any, error) { return state{"ok"}, nil }
	return []route{
		{method: "GET", path: "/healthy", access: public, summary: "Harbor from 2.12 on: whether the manager is there, and takes the credentials", out: state{}, do: alive},
		{method: "POST", path: "/oapi/v1/jobs", access: create, summary: "Harbor from 2.12 on, and Dragonfly: preheat an image, or a file", in: dragonflyJob{}, out: dragonflyState{}, do: s.createDragonfly},
		{method: "GET", path: "/oapi/v1/jobs/{id}", access: poll, summary: "Harbor from 2.12 on: how far a job is", out: dragonflyState{}, do: s.pollDragonfly},
		{method: "GET", path: "/_ping", access: public, summary: "Harbor up to 2.11: whether the manager is there, and takes the credentials", out: state{}, do: alive},
		{method: "POST", path: "/preheats", access: create, summary: "Harbor up to 2.11: preheat an image", in: olderJob{}, out: olderID{}, do: s.createOlder},
		{method: "GET", path: "/preheats/{id}", access: poll, summary: "Harbor up to 2.11: how far a job is", out: olderState{}, do: s.pollOlder},
		{method: "GET", path: "/health", access: public, summary: "Kraken's: whether the manager is there, and takes the credentials", out: state{}, do: alive},
		{method: "POST", path: "/registry/notifications", access: create, summary: "Kraken's, and any registry's: images that were pushed are preheated", in: notification{}, out: notified{}, do: s.notified},
	}
}

// lenient reads a body in which there may be more than is looked at.
func lenient[T any](c *call) (v T, err error) { return v, decode(json.NewDecoder(c.Body), &v) }

// request is what a registry wants to be preheated, and by which header the
// image may be read. Of a file, it is as o says.
func request(kind, url string, headers map[string]string, o job.Order) (q job.Request, err error) {
	if kind == job.File {
		o.Kind, o.URL, o.Headers = job.File, url, headers
		return o.Request()
	}
	fields := map[string]string{}
	if kind != job.Image {
		fields["type"] = fmt.Sprintf("%.40q is not supported: only image and file are", kind)
	}
	if q.Ref, err = registry.ParseURL(url); err != nil {
		fields["url"] = err.Error()
	}
	for name, value := range headers {
		if strings.EqualFold(name, "Authorization") && value != "" {
			q.Credential.Authorization = value
			if !field.Printable(value) {
				fields["headers"] = "Authorization must be printable"
			}
		}
	}
	return q, invalid(fields)
}

type dragonflyJob struct {
	Type string `json:"type"`
	Args struct {
		Type     string            `json:"type"`
		URL      string            `json:"url"`
		URLs     []string          `json:"urls,omitempty"` // in its place, of one file
		Headers  map[string]string `json:"headers"`
		Username string            `json:"username,omitempty"` // who may read an image
		Password string            `json:"password,omitempty"`
		Tag      string            `json:"tag,omitempty"`                   // of a file, as what follows
		Filter   string            `json:"filtered_query_params,omitempty"` // a&b
		Scope    string            `json:"scope"`
		Percent  int               `json:"percentage,omitempty"`
		Count    int               `json:"concurrent_count"`
		Peers    int               `json:"concurrent_peer_count,omitempty"` // as Dragonfly calls it
		IPs      []string          `json:"ips,omitempty"`
		Some     int               `json:"count,omitempty"`
		Timeout  time.Duration     `json:"timeout"` // nanoseconds
		Platform string            `json:"platform,omitempty"`
	} `json:"args"`
	Clusters []int64 `json:"scheduler_cluster_ids,omitempty"`
}

type dragonflyState struct {
	ID      int64           `json:"id"`
	Created time.Time       `json:"created_at"`
	Updated time.Time       `json:"updated_at"`
	State   string          `json:"state"`
	Result  dragonflyResult `json:"result"`
}

type dragonflyResult struct {
	JobStates []dragonflyJobState `json:"job_states"`
}

type dragonflyJobState struct {
	State   string           `json:"state"`
	Error   string           `json:"error"`
	Results []dragonflyTasks `json:"results"`
}

type dragonflyTasks struct {
	Success []dragonflyTask `json:"success_tasks"`
	Failure []dragonflyTask `json:"failure_tasks"`
	Cluster int64           `json:"scheduler_cluster_id"`
}

type dragonflyTask struct {
	URL         string `json:"url"`
	Hostname    string `json:"hostname"`
	IP          string `json:"ip"`
	Description string `json:"description"`
}

func (s *Server) createDragonfly(c *call) (any, error) {
	in, err := lenient[dragonflyJob](c)
	if err != nil {
		return nil, err
	}
	if in.Type != "preheat" {
		return nil, invalid(map[string]string{"type": fmt.Sprintf("%.40q is not supported: only preheat is", in.Type)})
	}
	if len(in.Clusters) > 1 {
		return nil, invalid(map[string]string{"scheduler_cluster_ids": "one at a time"})
	}
	q, err := in.request()
	if err != nil {
		return nil, err
	}
	if len(in.Clusters) == 1 {
		q.Cluster = in.Clusters[0]
	}
	j, err := s.create(c, q)
	if err != nil {
		return nil, err
	}
	return s.dragonfly(c, j)
}

// request is what is to be preheated, and where.
func (in dragonflyJob) request() (q job.Request, err error) {
	a := in.Args
	switch {
	case len(a.IPs) > 0 || a.Some > 0:
		return q, invalid(map[string]string{"scope": "ips and count are not supported: percentage is, and hosts of POST /api/v1/jobs"})
	case len(a.URLs) > 1 || len(a.URLs) == 1 && a.URL != "":
		return q, invalid(map[string]string{"urls": "one at a time"})
	case len(a.URLs) == 1:
		a.URL = a.URLs[0]
	}
	if q, err = request(a.Type, a.URL, a.Headers, job.Order{Tag: a.Tag, Filter: names(a.Filter)}); err != nil {
		return q, err
	}
	if a.Type == job.Image && a.Username != "" {
		q.Credential = registry.Credential{User: a.Username, Password: a.Password}
	}
	if p := a.Platform; p != "" {
		if !job.IsPlatform(p) {
			return q, invalid(map[string]string{"platform": "must be like linux/amd64"})
		}
		q.Platforms = []string{p}
	}
	q.Scope = job.Scope{Kind: a.Scope, Percent: a.Percent, Concurrent: cmp.Or(a.Count, a.Peers), Seconds: int(a.Timeout / time.Second)}
	wrong := field.Errors{}
	q.Scope.Check(wrong)
	return q, wrong.Err()
}

func (s *Server) pollDragonfly(c *call) (any, error) {
	j, err := s.jobOf(c)
	if err != nil {
		return nil, err
	}
	return s.dragonfly(c, j)
}

// dragonfly shows a job as Dragonfly's manager does.
func (s *Server) dragonfly(c *call, j store.Job) (any, error) {
	out := dragonflyState{j.ID, j.Created, j.Updated, "PENDING", dragonflyResult{JobStates: []dragonflyJobState{}}}
	if !j.State.Done() {
		return out, nil
	}
	out.State = "FAILURE"
	if j.State == store.Succeeded {
		out.State = "SUCCESS"
	}
	blobs, err := s.Store.JobBlobs(c.Context(), j.ID)
	if err != nil {
		return nil, err
	}
	tasks := dragonflyTasks{Success: []dragonflyTask{}, Failure: []dragonflyTask{}, Cluster: cmp.Or(j.Cluster, 1)}
	for _, b := range blobs {
		host, _, _ := net.SplitHostPort(b.Address)
		url := b.Digest // of a blob that was removed
		if j.Kind == job.File {
			url = j.URL
		} else if repo, _, is := strings.Cut(j.URL, "/manifests/"); is {
			url = repo + "/blobs/" + b.Digest
		}
		t := dragonflyTask{url, b.Host, host, b.Error}
		if b.State == store.Succeeded {
			tasks.Success = append(tasks.Success, t)
		} else {
			tasks.Failure = append(tasks.Failure, t)
		}
	}
	out.Result.JobStates = append(out.Result.JobStates, dragonflyJobState{out.State, reason(j), []dragonflyTasks{tasks}})
	return out, nil
}

// reason is why a job failed, or was cancelled.
func reason(j store.Job) string {
	if j.State == store.Cancelled {
		return "the job was cancelled"
	}
	return j.Error
}

type olderJob struct {
	Type    string            `json:"type"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Filter  string            `json:"filter,omitempty"` // of a file: a&b
}

// names are those of parameters, as registries write them.
func names(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '&' })
}

type olderID struct {
	ID string `json:"ID"`
}

type olderState struct {
	ID       string `json:"ID"`
	Started  string `json:"startTime"`
	Finished string `json:"finishTime"`
	Error    string `json:"errorMsg"`
	Status   string
}

func (s *Server) createOlder(c *call) (any, error) {
	in, err := lenient[olderJob](c)
	if err != nil {
		return nil, err
	}
	q, err := request(in.Type, in.URL, in.Headers, job.Order{Filter: names(in.Filter)})
	if err != nil {
		return nil, err
	}
	j, err := s.create(c, q)
	return olderID{strconv.FormatInt(j.ID, 10)}, err
}

func (s *Server) pollOlder(c *call) (any, error) {
	j, err := s.jobOf(c)
	if err != nil {
		return nil, err
	}
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.RFC3339)
	}
	status := map[store.State]string{store.Waiting: "WAITING", store.Running: "RUNNING", store.Succeeded: "SUCCESS"}[j.State]
	if status == "" {
		status = "FAIL"
	}
	why := ""
	if j.State.Done() {
		why = reason(j)
	}
	return olderState{strconv.FormatInt(j.ID, 10), stamp(j.Started), stamp(j.Finished), why, status}, nil
}

type notification struct {
	Events []struct {
		Action string `json:"action"`
		Target struct {
			MediaType string `json:"mediaType"`
			URL       string `json:"url"`
		} `json:"target"`
	} `json:"events"`
}

type notified struct {
	Jobs []int64 `json:"jobs"`
}

const maxEvents = 100

// notified preheats what was pushed. Other events are none of our business, and
// registries repeat what is not answered with success, so they are passed over.
func (s *Server) notified(c *call) (any, error) {
	in, err := lenient[notification](c)
	if err != nil {
		return nil, err
	}
	if len(in.Events) > maxEvents {
		return nil, &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: fmt.Sprintf("at most %d events at a time", maxEvents)}
	}
	out := notified{Jobs: []int64{}}
	for _, e := range in.Events {
		if e.Action != "push" || !strings.Contains(e.Target.URL, "/manifests/") {
			continue
		}
		q, err := request(job.Image, e.Target.URL, nil, job.Order{})
		if err != nil {
			return nil, err
		}
		j, err := s.create(c, q)
		if err != nil {
			return nil, err
		}
		out.Jobs = append(out.Jobs, j.ID)
	}
	return out, nil
}
