package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

const preheatLong = `dfget preheat IMAGE has the manager bring an image into a cluster before anybody starts
it, and returns when all of it is there and has matched its digests, or says why not.
Interrupted, it leaves the job to the manager.

dfget preheat URL, of http:// or https://, does so for a file, which dfget on the
hosts then finds there if it is called with the same --digest, or else with the same
URL, --tag, --filter and --header.

Sign in first, with dfget login. The exit code is 0 when the image is in place, and else
  1  when it cannot be brought there, or for any other reason
  4  when the manager wants other credentials
  6  when the manager does not answer: trying again later may help`

// preheat is one call of dfget preheat.
type preheat struct {
	Kind      string   `json:"kind,omitempty"`
	Image     string   `json:"image,omitempty"`
	URL       string   `json:"url,omitempty"`
	PlainHTTP bool     `json:"plain_http,omitempty"`
	Platforms []string `json:"platforms,omitempty"`
	Cluster   int64    `json:"cluster_id,omitempty"`
	User      string   `json:"registry_user,omitempty"`
	Password  string   `json:"registry_password,omitempty"`
	Scope     string   `json:"scope,omitempty"`
	Percent   int      `json:"percentage,omitempty"`
	Hosts     []string `json:"hosts,omitempty"`
	Count     int      `json:"concurrent_hosts,omitempty"`
	Seconds   int      `json:"timeout_seconds,omitempty"`
	Layers    []string `json:"layers,omitempty"`
	fileOptions

	name                  string // as it was given
	headers               []string
	kept                  accountFlag
	cluster               string // its name
	passwordStdin         bool
	detach, asJSON, quiet bool
	pace, timeout         time.Duration
	in                    io.Reader
	out, log              io.Writer
}

func preheatCommand() *cobra.Command {
	var p preheat
	cmd := &cobra.Command{
		Use: "preheat IMAGE|URL", Short: "Have an image, or a file, brought into a cluster", Long: preheatLong,
		Args: daemon.Args(cobra.ExactArgs(1)), ValidArgsFunction: p.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.name, p.in, p.out, p.log = args[0], cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return coded(p.run(cmd.Context()))
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&p.Platforms, "platform", nil, "of an image for several platforms those for these, such as linux/amd64 (default: as the manager is configured)")
	f.StringSliceVar(&p.Layers, "layer", nil, "of an image only the layers with these digests")
	f.StringVar(&p.cluster, "cluster", "", "name of the cluster (default: the manager's default one)")
	f.StringVar(&p.Scope, "scope", "", "where to: "+strings.Join(scopes, ", ")+" (default: the first, from which others get it when they start it)")
	f.IntVar(&p.Percent, "percentage", 0, "of the hosts of that scope only so many")
	f.StringSliceVar(&p.Hosts, "host", nil, "name or address of a host to bring it to, with --scope hosts, which then need not be given")
	f.IntVar(&p.Count, "concurrent", 0, "to how many hosts at a time (default: 50)")
	f.DurationVar(&p.timeout, "timeout", 0, "for how long it is tried (default: as the manager is configured)")
	f.StringVar(&p.Digest, "digest", "", "of a file: what the content must match, such as sha256:…")
	f.StringArrayVarP(&p.headers, "header", "H", nil, `of a file: header of the request to its server, "Name: value"; may be repeated. The manager forgets it when the file is in place`)
	f.StringVar(&p.Tag, "tag", "", "tells this file from others of the same URL")
	f.StringSliceVar(&p.Filter, "filter", nil, "parameters of the URL's query that do not tell files apart, such as token,ts")
	f.BoolVar(&p.PlainHTTP, "plain-http", false, "the image's registry speaks plain HTTP")
	f.StringVar(&p.User, "registry-user", "", "who may read a private image; the manager forgets that when the image is in place")
	f.BoolVar(&p.passwordStdin, "registry-password-stdin", false, "read that user's password from the standard input")
	f.BoolVarP(&p.detach, "detach", "d", false, "do not wait: print the job's number")
	f.BoolVar(&p.asJSON, "json", false, "print the job as JSON")
	f.DurationVar(&p.pace, "pace", time.Second, "how often the manager is asked how far it is")
	f.BoolVarP(&p.quiet, "quiet", "q", false, "show no progress, and say only what is wrong")
	p.kept.add(cmd)
	cmd.MarkFlagsRequiredTogether("registry-user", "registry-password-stdin")
	complete := func(flag string, f cobra.CompletionFunc) {
		if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
			panic(err) // there is such a flag
		}
	}
	complete("cluster", p.completeClusters)
	complete("scope", cobra.FixedCompletions(scopes, cobra.ShellCompDirectiveNoFileComp))
	complete("platform", cobra.FixedCompletions([]string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/riscv64", "linux/s390x"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// scopes are where an image can be brought to, in the manager's words.
var scopes = []string{"single_seed_peer", "all_seed_peers", "all_peers", "hosts"}

// heated is a job of the manager.
type heated struct {
	ID     int64  `json:"id"`
	URL    string `json:"url"`
	State  string `json:"state"`
	Error  string `json:"error"`
	Digest string `json:"digest"`
}

func (j heated) done() bool {
	return j.State == "succeeded" || j.State == "failed" || j.State == "cancelled"
}

// heatedBlob is how far a blob of it is.
type heatedBlob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Got    int64  `json:"in_place"`
	Host   string `json:"host"`
	State  string `json:"state"`
	Error  string `json:"error"`
}

func (p *preheat) run(ctx context.Context) (err error) {
	if err := p.what(); err != nil {
		return err
	}
	a, err := p.kept.load()
	if err != nil {
		return err
	}
	m, err := openManager(a)
	if err != nil {
		return err
	}
	defer m.close()
	if p.passwordStdin {
		if p.Password, err = line(p.in); err != nil {
			return err
		}
	}
	if len(p.Hosts) > 0 && p.Scope == "" {
		p.Scope = "hosts"
	}
	p.Seconds = int(p.timeout.Round(time.Second) / time.Second)
	if p.cluster != "" {
		if p.Cluster, err = m.clusterID(ctx, p.cluster); err != nil {
			return err
		}
	}
	var j heated
	if err := m.do(ctx, http.MethodPost, "/api/v1/jobs", p, &j); err != nil {
		return err
	}
	began := time.Now()
	var blobs []heatedBlob
	if !p.detach {
		if j, blobs, err = p.follow(ctx, m, j, began); err != nil {
			return err
		}
	}
	return p.report(j, blobs, time.Since(began))
}

// clusterID finds a cluster.
func (m *manager) clusterID(ctx context.Context, name string) (int64, error) {
	all, err := m.clusters(ctx)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, c := range all {
		if c.Name == name {
			return c.ID, nil
		}
		names = append(names, c.Name)
	}
	return 0, fmt.Errorf("the manager has no cluster %q, but %s", name, strings.Join(names, ", "))
}

type namedCluster struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

func (m *manager) clusters(ctx context.Context) ([]namedCluster, error) {
	return pages[namedCluster](ctx, m, "/api/v1/clusters")
}

// pages reads a list of the manager.
func pages[T any](ctx context.Context, m *manager, path string) (all []T, err error) {
	for next := int64(0); ; {
		var l struct {
			Items []T   `json:"items"`
			Next  int64 `json:"next"`
		}
		if err := m.do(ctx, http.MethodGet, fmt.Sprintf("%s?limit=200&after=%d", path, next), nil, &l); err != nil {
			return nil, err
		}
		all = append(all, l.Items...)
		if next = l.Next; next == 0 || len(l.Items) == 0 {
			return all, nil
		}
	}
}

// awayFor is for how long the manager may be away while a job runs: one that is
// restarted goes on with it.
const awayFor = time.Minute

// follow shows how far the job is until it has ended.
func (p *preheat) follow(ctx context.Context, m *manager, j heated, began time.Time) (heated, []heatedBlob, error) {
	show := progress{name: p.shown()}
	if !p.quiet && !p.asJSON {
		show.To = terminal.NewLine(p.log).To
	}
	defer show.Show("")
	at := fmt.Sprintf("/api/v1/jobs/%d", j.ID)
	show.began = began
	for heard := time.Now(); ; {
		now, blobs, err := m.look(ctx, at)
		switch {
		case ctx.Err() != nil:
			return j, nil, fmt.Errorf("interrupted; job %d goes on: %s/jobs/%d", j.ID, m.base, j.ID)
		case err == nil:
			j, heard = now, time.Now()
			if j.done() {
				return j, blobs, nil
			}
			show.blobs(blobs)
		case !passing(err) || time.Since(heard) > awayFor:
			return j, nil, fmt.Errorf("job %d: %w", j.ID, err)
		}
		t := time.NewTimer(p.pace)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// look reads a job and its blobs.
func (m *manager) look(ctx context.Context, path string) (j heated, blobs []heatedBlob, err error) {
	if err := m.do(ctx, http.MethodGet, path, nil, &j); err != nil {
		return j, nil, err
	}
	var l struct {
		Items []heatedBlob `json:"items"`
	}
	err = m.do(ctx, http.MethodGet, path+"/blobs", nil, &l)
	return j, l.Items, err
}

// sums adds up blobs.
func sums(blobs []heatedBlob) (got, size int64, ready int) {
	for _, b := range blobs {
		got, size = got+b.Got, size+b.Size
		if b.State == "succeeded" {
			ready++
		}
	}
	return got, size, ready
}

// blobs shows how much of an image is in place.
func (p *progress) blobs(all []heatedBlob) {
	got, size, ready := sums(all)
	if len(all) == 0 {
		p.Show(p.name + "  is being looked up")
		return
	}
	p.size, p.total = got, size
	p.Show(p.line(time.Now(), fmt.Sprintf("%d of %d blobs", ready, len(all))))
}

// report says how the job ended, or that it is begun.
func (p *preheat) report(j heated, blobs []heatedBlob, took time.Duration) error {
	var failed error
	if j.done() && j.State != "succeeded" {
		failed = errors.New(strings.TrimSuffix(fmt.Sprintf("job %d: %s: %s", j.ID, j.State, j.Error), ": "))
	}
	if p.asJSON {
		return errors.Join(terminal.JSON(p.out, map[string]any{"job": j, "blobs": append([]heatedBlob{}, blobs...)}), failed)
	}
	if failed != nil || p.quiet {
		return failed
	}
	if p.detach {
		_, err := fmt.Fprintln(p.out, j.ID)
		return err
	}
	_, size, _ := sums(blobs)
	var hosts []string
	for _, b := range blobs {
		if b.Host != "" && !slices.Contains(hosts, b.Host) {
			hosts = append(hosts, b.Host)
		}
	}
	on := ""
	if len(hosts) > 0 {
		on = " on " + strings.Join(hosts, ", ")
	}
	if p.Scope != "" && p.Scope != scopes[0] {
		on += " and the hosts of scope " + p.Scope
	}
	_, err := fmt.Fprintf(p.log, "%s  %s in %d %s, in place%s after %s\n", p.shown(), terminal.Size(size), len(blobs), map[bool]string{true: "blob", false: "blobs"}[len(blobs) == 1], on, took.Round(time.Millisecond))
	return err
}
