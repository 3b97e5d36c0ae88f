package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// Config is the daemon's configuration file.
type Config struct {
	Listen     string           `toml:"listen" comment:"REST API and what registries call. Without certificates only this machine may connect, whatever stands here,\nunless web.insecure is true."`
	GRPCListen string           `toml:"grpc_listen" comment:"Where schedulers, seeds and hosts join and stay connected. Certificates are the manager's own."`
	Database   string           `toml:"database" comment:"sqlite:///PATH for one manager, postgres://USER:PASSWORD@HOST/NAME for several."`
	KeyFile    string           `toml:"key_file" comment:"What stored credentials are sealed with; made if it is missing. Managers of one database need the same one,\nor the same DFMANAGER_SECRET_KEY in the environment, which counts instead."`
	Web        WebConfig        `toml:"web"`
	Auth       AuthConfig       `toml:"auth"`
	Cluster    ClusterConfig    `toml:"cluster"`
	Jobs       JobsConfig       `toml:"jobs"`
	Registries RegistriesConfig `toml:"registries"`
	TLS        daemon.TLS       `toml:"tls"`
	Debug      DebugConfig      `toml:"debug"`
}

// ClusterConfig names a cluster that has not joined this manager.
type ClusterConfig struct {
	Schedulers []string `toml:"schedulers" comment:"Images are preheated by the schedulers that have joined a cluster. If the default one knows nothing of this\nmanager: its schedulers, such as [\"sched-0.example:8002\"], with its certificates in [tls]."`
}

// JobsConfig bounds preheat jobs.
type JobsConfig struct {
	Concurrent int      `toml:"concurrent" comment:"Jobs that this manager works on at a time."`
	Timeout    Duration `toml:"timeout" comment:"For how long a job is tried, counted from when it was created. Harbor waits for 30m."`
	Keep       Duration `toml:"keep" comment:"For how long a job that has ended can be looked at."`
	Platforms  []string `toml:"platforms" comment:"Of images for several platforms, these are preheated, such as [\"linux/amd64\"]. None: all."`
}

// RegistriesConfig says how registries reach the manager, and it them.
type RegistriesConfig struct {
	OpenTo []string `toml:"open_to" comment:"CIDRs from which registries may have images preheated without saying who they are. Anybody there can."`
	CA     string   `toml:"ca" comment:"PEM file with CAs of registries, and of web servers whose files are preheated, besides the system's."`
}

// WebConfig says how browsers and registries reach the manager.
type WebConfig struct {
	Cert     string   `toml:"cert" comment:"Certificate and key of the address that browsers use, as PEM files."`
	Key      string   `toml:"key"`
	Insecure bool     `toml:"insecure" comment:"Plain text on any address: right behind a proxy that does TLS, and nowhere else."`
	Proxies  []string `toml:"proxies" comment:"Addresses of such proxies, as CIDRs. Their X-Forwarded-For is believed, and browsers are told to use https only."`
	Rate     int      `toml:"rate" comment:"Requests per second that one address may make for long."`
}

// AuthConfig says how users sign in.
type AuthConfig struct {
	Session Duration   `toml:"session" comment:"How long a sign-in lasts."`
	OIDC    OIDCConfig `toml:"oidc"`
}

// DebugConfig is the operator's address.
type DebugConfig struct {
	Listen string `toml:"listen" comment:"/metrics, /healthz and /readyz; empty for none."`
}

// Duration is a time such as "10s" or "24h".
type Duration struct{ time.Duration }

// MarshalText writes it as it is read, without zeros at the end.
func (d Duration) MarshalText() ([]byte, error) {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}} {
		if d.Duration > 0 && d.Duration%u.unit == 0 {
			return fmt.Appendf(nil, "%d%s", d.Duration/u.unit, u.name), nil
		}
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	if d.Duration, err = time.ParseDuration(string(text)); err != nil {
		return fmt.Errorf("%.40q is not a time such as 10s or 24h", text)
	}
	return nil
}

// DefaultConfig is what holds without a file.
func DefaultConfig() Config {
	return Config{
		Listen: ":8080", GRPCListen: ":65003",
		Database: "sqlite:///var/lib/dfmanager/manager.db",
		Web:      WebConfig{Proxies: []string{}, Rate: 100},
		KeyFile:  "/var/lib/dfmanager/secret.key",
		Auth:     AuthConfig{Session: Duration{12 * time.Hour}, OIDC: defaultOIDC()},
		Cluster:  ClusterConfig{Schedulers: []string{}},
		Jobs: JobsConfig{
			Concurrent: 4, Timeout: Duration{25 * time.Minute}, Keep: Duration{30 * 24 * time.Hour}, Platforms: []string{},
		},
		Registries: RegistriesConfig{OpenTo: []string{}},
		Debug:      DebugConfig{Listen: "127.0.0.1:65006"},
	}
}

// Validate reports all that is wrong with the values.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if !daemon.IsHostPort(c.Listen) {
		bad("listen", "%q is not host:port", c.Listen)
	}
	if !daemon.IsHostPort(c.GRPCListen) {
		bad("grpc_listen", "%q is not host:port", c.GRPCListen)
	}
	if c.Debug.Listen != "" && !daemon.IsHostPort(c.Debug.Listen) {
		bad("debug.listen", "%q is not host:port", c.Debug.Listen)
	}
	if err := store.CheckURL(c.Database); err != nil {
		bad("database", "%v", err)
	}
	if (c.Web.Cert == "") != (c.Web.Key == "") {
		bad("web", "cert and key go together")
	}
	if c.Web.Cert != "" && c.Web.Insecure {
		bad("web.insecure", "true contradicts the certificate: set it to false, or take that out")
	}
	if _, err := prefixes(c.Web.Proxies); err != nil {
		bad("web.proxies", "%v", err)
	}
	if c.Web.Rate < 1 || c.Web.Rate > 1_000_000 {
		bad("web.rate", "%d is not from 1 to 1000000", c.Web.Rate)
	}
	if c.Auth.Session.Duration < time.Minute || c.Auth.Session.Duration > 90*24*time.Hour {
		bad("auth.session", "%v is not from 1m to 2160h", c.Auth.Session.Duration)
	}
	c.Auth.OIDC.validate(bad)
	c.validateJobs(bad)
	return errors.Join(append(errs, c.TLS.Validate())...)
}

func (c Config) validateJobs(bad func(key, format string, args ...any)) {
	for _, s := range c.Cluster.Schedulers {
		if !daemon.IsDialable(s) {
			bad("cluster.schedulers", "%q is not host:port, such as scheduler-0:8002", s)
		}
	}
	if c.Jobs.Concurrent < 1 || c.Jobs.Concurrent > 1000 {
		bad("jobs.concurrent", "%d is not from 1 to 1000", c.Jobs.Concurrent)
	}
	if c.Jobs.Timeout.Duration < time.Second || c.Jobs.Keep.Duration < time.Minute {
		bad("jobs", "timeout must be 1s at least, and keep 1m")
	}
	for _, p := range c.Jobs.Platforms {
		if n := strings.Count(p, "/"); n < 1 || n > 2 || strings.ContainsAny(p, " ,") {
			bad("jobs.platforms", "%q is not like linux/amd64", p)
		}
	}
	if _, err := prefixes(c.Registries.OpenTo); err != nil {
		bad("registries.open_to", "%v", err)
	}
	if c.KeyFile == "" {
		bad("key_file", "is empty: name a file, which is made if it is missing")
	}
}

// prefixes reads CIDRs; one address stands for itself.
func prefixes(list []string) (all []netip.Prefix, err error) {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		all = append(all, p.Masked())
	}
	return all, nil
}
