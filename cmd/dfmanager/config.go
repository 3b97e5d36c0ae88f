package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// Config is the daemon's configuration file.
type Config struct {
	Listen   string      `toml:"listen" comment:"REST API and what registries call. Without certificates only this machine may connect, whatever stands here,\nunless web.insecure is true."`
	Database string      `toml:"database" comment:"sqlite:///PATH for one manager, postgres://USER:PASSWORD@HOST/NAME for several."`
	Web      WebConfig   `toml:"web"`
	Auth     AuthConfig  `toml:"auth"`
	Debug    DebugConfig `toml:"debug"`
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
	Session Duration `toml:"session" comment:"How long a sign-in lasts."`
}

// DebugConfig is the operator's address.
type DebugConfig struct {
	Listen string `toml:"listen" comment:"/metrics, /healthz and /readyz; empty for none."`
}

// Duration is a time such as "10s" or "24h".
type Duration struct{ time.Duration }

// MarshalText writes it as it is read, without zeros at the end.
func (d Duration) MarshalText() ([]byte, error) { //nolint:unparam // encoding.TextMarshaler
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
		Listen:   ":8080",
		Database: "sqlite:///var/lib/dfmanager/manager.db",
		Web:      WebConfig{Proxies: []string{}, Rate: 100},
		Auth:     AuthConfig{Session: Duration{12 * time.Hour}},
		Debug:    DebugConfig{Listen: "127.0.0.1:65006"},
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
	return errors.Join(errs...)
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
