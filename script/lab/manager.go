package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Manager is a dfmanager, of which one is asked as its first user.
type Manager struct {
	*Process
	Addr  string // on its host
	Debug string // host:port of metrics and health, on its host

	at *Host
}

const (
	firstPassword  = "given by the lab"
	chosenPassword = "chosen by the lab"
)

// Manager starts a dfmanager on a host. more is added to its configuration.
func (h *Host) Manager(ctx context.Context, more string) (*Manager, error) {
	debug, err := h.debugAddr("65006")
	if err != nil {
		return nil, err
	}
	m := &Manager{at: h, Addr: "127.0.0.1:8080", Debug: debug}
	config, err := h.write("manager.toml", fmt.Sprintf("listen = %q\ngrpc_listen = '127.0.0.1:0'\ndatabase = 'sqlite://%s'\nkey_file = %q\n[debug]\nlisten = %q\n%s",
		m.Addr, h.Path("manager.db"), h.Path("manager.key"), debug, more))
	if err != nil {
		return nil, err
	}
	bin, err := h.lab.binary(ctx, "dfmanager")
	if err != nil {
		return nil, err
	}
	if m.Process, err = h.Start("manager", []string{"DFMANAGER_ROOT_PASSWORD=" + firstPassword}, bin, "--config", config); err != nil {
		return nil, err
	}
	if err := m.ready(ctx, 30*time.Second, func() error { return h.isReady(ctx, debug) }); err != nil {
		return nil, err
	}
	return m, m.first(ctx)
}

// first has the first user choose a password.
func (m *Manager) first(ctx context.Context) error {
	resp, err := m.send(ctx, http.MethodPost, "/api/v1/session", map[string]string{"name": "root", "password": firstPassword}, nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	resp, err = m.send(ctx, http.MethodPut, "/api/v1/me/password", map[string]string{"old": firstPassword, "new": chosenPassword}, func(r *http.Request) {
		for _, k := range resp.Cookies() {
			r.AddCookie(k)
		}
	})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Metrics returns the manager's metrics by name and labels, as they are written.
func (m *Manager) Metrics(ctx context.Context) (map[string]float64, error) {
	return m.at.metrics(ctx, m.Debug)
}

// send asks the manager; another status than 2xx is an error.
func (m *Manager) send(ctx context.Context, method, path string, body any, change func(*http.Request)) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.Addr+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if change != nil {
		change(req)
	}
	resp, err := m.at.Client().Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what it says is good enough
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp, nil
}

// ask decodes what the manager answers root.
func (m *Manager) ask(ctx context.Context, method, path string, body, answer any) error {
	resp, err := m.send(ctx, method, path, body, func(r *http.Request) { r.SetBasicAuth("root", chosenPassword) })
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(answer)
}

// Job is one of the manager's.
type Job struct {
	ID    int64
	State string // succeeded, failed or cancelled
	Error string
}

// Do has the manager do a job, as its API describes orders, and waits for its end.
func (m *Manager) Do(ctx context.Context, order map[string]any) (j Job, err error) {
	if err := m.ask(ctx, http.MethodPost, "/api/v1/jobs", order, &j); err != nil {
		return j, err
	}
	err = Eventually(ctx, 5*time.Minute, func() error {
		if err := m.ask(ctx, http.MethodGet, fmt.Sprint("/api/v1/jobs/", j.ID), nil, &j); err != nil {
			return err
		}
		if j.State == "waiting" || j.State == "running" {
			return fmt.Errorf("job %d is %s: %s", j.ID, j.State, j.Error)
		}
		return nil
	})
	return j, err
}
