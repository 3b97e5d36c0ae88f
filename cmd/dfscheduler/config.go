package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

// Config is the daemon's configuration file.
type Config struct {
	Listen    string       `toml:"listen" comment:"Where hosts connect. Without certificates only this machine may, whatever stands here."`
	Advertise string       `toml:"advertise" comment:"host:port at which hosts reach that, for the manager to tell; empty for listen's port at the address it sees."`
	Manager   string       `toml:"manager" comment:"The manager, such as 'manager:65003', that gives this scheduler a certificate and tells hosts of it."`
	JoinToken string       `toml:"join_token" comment:"File with a join token, for the first time; \"dfmanager token create\" prints one."`
	Root      string       `toml:"root" comment:"For what the manager gives. Without a manager nothing is stored."`
	Swarms    SwarmsConfig `toml:"swarms"`
	Limits    LimitsConfig `toml:"limits"`
	TLS       daemon.TLS   `toml:"tls"`
	Debug     DebugConfig  `toml:"debug"`
}

// SwarmsConfig holds what depends on the cluster's network and its people.
type SwarmsConfig struct {
	Fanout int      `toml:"fanout" comment:"Hosts that one host serves at a time, per blob. Fewer where uplinks are slow compared with downlinks."`
	Ban    Duration `toml:"ban" comment:"For how long a host that served wrong bytes serves nobody, the first time. It doubles each time."`
	MaxBan Duration `toml:"max_ban" comment:"The longest ban."`
}

// LimitsConfig bounds what hosts may cost.
type LimitsConfig struct {
	Hosts           int `toml:"hosts" comment:"Hosts connected at a time. Each costs about 100 KiB of memory."`
	HostsPerAddress int `toml:"hosts_per_address" comment:"Of those, with one IP address. More where many hosts are behind one NAT."`
	Messages        int `toml:"messages" comment:"Messages per second that one host may send for long."`
}

// DebugConfig is the operator's address.
type DebugConfig struct {
	Listen string `toml:"listen" comment:"/metrics, /healthz, /readyz and /debug; empty for none."`
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
		Listen: ":8002", JoinToken: "/etc/dfsnapshotter/join-token", Root: "/var/lib/dfscheduler",
		Swarms: SwarmsConfig{Fanout: 8, Ban: Duration{10 * time.Minute}, MaxBan: Duration{24 * time.Hour}},
		Limits: LimitsConfig{Hosts: 20_000, HostsPerAddress: 256, Messages: 500},
		Debug:  DebugConfig{Listen: "127.0.0.1:65005"},
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
	if c.Advertise != "" && !daemon.IsDialable(c.Advertise) {
		bad("advertise", "%q is not host:port as hosts can dial it; leave it empty for the address that the manager sees", c.Advertise)
	}
	if c.Manager != "" && !daemon.IsDialable(c.Manager) {
		bad("manager", "%q is not host:port, such as manager:65003", c.Manager)
	}
	if c.Manager != "" && !filepath.IsAbs(c.Root) {
		bad("root", "%q is not an absolute path", c.Root)
	}
	if c.Manager != "" && c.TLS != (daemon.TLS{}) {
		bad("tls", "the manager gives the certificate: take all of tls out, or the manager")
	}
	if c.Debug.Listen != "" && !daemon.IsHostPort(c.Debug.Listen) {
		bad("debug.listen", "%q is not host:port", c.Debug.Listen)
	}
	for key, n := range map[string]int{
		"swarms.fanout": c.Swarms.Fanout, "limits.hosts": c.Limits.Hosts,
		"limits.hosts_per_address": c.Limits.HostsPerAddress, "limits.messages": c.Limits.Messages,
	} {
		if n < 1 || n > 1_000_000 {
			bad(key, "%d is not from 1 to 1000000", n)
		}
	}
	if c.Swarms.Ban.Duration <= 0 || c.Swarms.MaxBan.Duration < c.Swarms.Ban.Duration {
		bad("swarms", "ban must be more than 0s, and max_ban not less than ban")
	}
	return errors.Join(append(errs, c.TLS.Validate())...)
}

func (c Config) scheduling() sched.Config {
	return sched.Config{
		Fanout: c.Swarms.Fanout, BanFor: c.Swarms.Ban.Duration, MaxBan: c.Swarms.MaxBan.Duration, MaxHosts: c.Limits.Hosts,
	}
}
