package origin

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"
)

// SetClock changes what time a client thinks it is.
func (c *Client) SetClock(now func() time.Time) { c.now = now }

// RecheckHosts is how long a registry's files are not looked at again.
const RecheckHosts = recheckHosts

// Guarded wraps a way to dial of a client that is configured to use a server.
func Guarded(trusted *url.URL, dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	d := &dialer{}
	d.trust(trusted)
	return d.guard(dial)
}

// ProxyOf is how a client that is configured to use a server chooses a proxy.
func ProxyOf(trusted *url.URL, next func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	d := &dialer{}
	d.trust(trusted)
	return d.proxy(next)
}

// MaxRegistries is how many are remembered.
const MaxRegistries = maxRegistries

// Registries returns how many are remembered.
func (c *Client) Registries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.registries)
}
