package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// account is who dfget is to a manager, as `dfget login` keeps it.
type account struct {
	URL   string `json:"url"`
	User  string `json:"user"`
	Token string `json:"token"`
	CA    string `json:"ca,omitempty"` // PEM file with the manager's CA; "": the system's
}

// String shows no token.
func (a account) String() string { return a.User + " at " + a.URL }

// GoString shows no token.
func (a account) GoString() string { return a.String() }

// What the environment says instead, in pipelines.
const envURL, envToken = "DFMANAGER_URL", "DFMANAGER_TOKEN"

var errSignedOut = errors.New("no manager is known: run dfget login https://MANAGER, or set " + envURL + " and " + envToken)

// accountFlag names the file that keeps the account; "": the usual one.
type accountFlag struct{ path string }

func (f *accountFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "account", "", "file that keeps who you are to the manager (default: dfget/manager.json in your configuration's folder)")
}

func (f *accountFlag) file() (string, error) {
	if f.path != "" {
		return f.path, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("--account is missing: %w", err)
	}
	return filepath.Join(dir, "dfget", "manager.json"), nil
}

// load reads the account. What the environment says counts, if no file was named.
func (f *accountFlag) load() (a account, err error) {
	if a.URL, a.Token = os.Getenv(envURL), os.Getenv(envToken); f.path == "" && a.URL != "" && a.Token != "" {
		return a, nil
	}
	path, err := f.file()
	if err != nil {
		return a, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return account{}, errSignedOut
	}
	if err == nil {
		if err = json.Unmarshal(text, &a); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	return a, err
}

// save keeps the account, for this user alone.
func (f *accountFlag) save(a account) (path string, err error) {
	if path, err = f.file(); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(a, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err != nil {
		return "", err
	}
	next, err := os.CreateTemp(filepath.Dir(path), ".manager-") // of mode 0600
	if err != nil {
		return "", err
	}
	_, err = next.Write(append(text, '\n'))
	if err = errors.Join(err, next.Close()); err == nil {
		err = os.Rename(next.Name(), path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(next.Name()))
	}
	return path, nil
}

// manager is a dfmanager, asked by its REST API.
type manager struct {
	base  string // URL without a slash at its end
	token string
	http  *http.Client
}

const (
	askFor    = 30 * time.Second
	maxAnswer = 16 << 20
)

// openManager makes a client of a manager. Nobody is asked yet.
func openManager(a account) (*manager, error) {
	u, err := url.Parse(a.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is not like https://manager.example:8080", a.URL)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.RootCAs, err = daemon.Roots("CA", a.CA); err != nil {
		return nil, err
	}
	return &manager{
		base: u.Scheme + "://" + u.Host, token: a.Token,
		http: &http.Client{
			Timeout: askFor, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it sends none
		},
	}, nil
}

// close closes idle connections.
func (m *manager) close() { m.http.CloseIdleConnections() }

// local reports whether the manager is on this machine.
func (m *manager) local() bool {
	u, err := url.Parse(m.base)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// refusal is an answer of a manager that is no success.
type refusal struct {
	Status  int
	Code    string            `json:"code"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields"`
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the manager says: %s (%d)", r.Message, r.Status)
	for _, name := range slices.Sorted(maps.Keys(r.Fields)) {
		text += fmt.Sprintf("\n%s: %s", name, r.Fields[name])
	}
	return text
}

// passing reports whether asking again may help.
func passing(err error) bool {
	var r *refusal
	if errors.As(err, &r) {
		return r.Status >= 500 || r.Status == http.StatusTooManyRequests
	}
	var u *url.Error
	return errors.As(err, &u)
}

// coded gives an error the exit code that scripts go by.
func coded(err error) error {
	var r *refusal
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errSignedOut), errors.As(err, &r) && (r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden):
		return daemon.ExitError{Code: exitUnauthorized, Err: err}
	case passing(err):
		return daemon.ExitError{Code: exitUnavailable, Err: err}
	}
	return err
}

// do asks the manager. in is sent as JSON, and the answer read into out, unless
// they are nil.
func (m *manager) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, m.base+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "dfget/"+version)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if m.token != "" {
		req.Header.Set("Authorization", "Bearer "+m.token)
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &url.Error{Op: method, URL: m.base + path, Err: err}
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return why(resp, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s is no manager, or one that this dfget does not understand: %w", m.base, err)
	}
	return nil
}

// why reads the reason of a refusal.
func why(resp *http.Response, data []byte) error {
	var v struct{ Error *refusal }
	if json.Unmarshal(data, &v) != nil || v.Error == nil {
		v.Error = &refusal{Message: resp.Status + ", which is no answer of a manager"}
	}
	v.Error.Status = resp.StatusCode
	return v.Error
}
