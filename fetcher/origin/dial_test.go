package origin_test

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// TestProxyIsNotAsked holds that a proxy is given no request to an address where
// clouds tell machines their secrets, however that is written.
func TestProxyIsNotAsked(t *testing.T) {
	proxy := &url.URL{Scheme: "http", Host: "169.254.1.1:3128"}
	choose := origin.ProxyOf(&url.URL{Scheme: "http", Host: "169.254.7.7:5000"}, http.ProxyURL(proxy))
	for at, refused := range map[string]bool{
		"http://169.254.169.254/latest": true, "https://169.254.169.254:8443": true, "http://169.254.169.254./": true, "http://[::ffff:a9fe:a9fe]": true,
		"http://[fe80::1%25eth0]": true, "http://2852039166": true, "http://0xa9.0376.43518": true, "http://0xA9FEA9FE": true, "http://169.254.7.7": true,
		"http://169.254.7.7:5000": false, "http://10.0.0.1": false, "https://registry.example": false, "http://1.2.3.4.5": false, "http://169.254.169.256": false, "http://localhost": false,
	} {
		u, err := choose(&http.Request{URL: address(t, at)})
		if errors.Is(err, origin.ErrAddress) != refused || (err == nil) == refused || !refused && u != proxy {
			t.Errorf("%s: %v, %v", at, u, err)
		}
	}
	if _, err := choose(&http.Request{URL: address(t, "http://169.254.1.2")}); !errors.Is(err, origin.ErrAddress) {
		t.Errorf("beside the proxy: %v", err)
	}
	none := origin.ProxyOf(proxy, func(*http.Request) (*url.URL, error) { return nil, nil })
	if u, err := none(&http.Request{URL: address(t, "http://169.254.169.254")}); u != nil || err != nil {
		t.Errorf("where no proxy is used: %v, %v", u, err) // whoever dials looks
	}
}

// TestGuardedTransport holds that it dials no such address but a proxy's.
func TestGuardedTransport(t *testing.T) {
	var proxy *url.URL
	tr := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }}
	origin.Guard(tr, net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}) // from there no packet goes out
	ask := func(at string) error {
		resp, err := tr.RoundTrip(&http.Request{URL: address(t, at), Header: http.Header{}})
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s answers", at)
		}
		return err
	}
	if err := ask("http://169.254.169.254:1"); !errors.Is(err, origin.ErrAddress) {
		t.Errorf("directly: %v", err)
	}
	proxy = &url.URL{Scheme: "http", Host: "169.254.169.253:1"}
	if err := ask("http://192.0.2.1"); err == nil || errors.Is(err, origin.ErrAddress) {
		t.Errorf("through a proxy: %v", err)
	}
	if err := ask("http://169.254.169.254:1"); !errors.Is(err, origin.ErrAddress) {
		t.Errorf("through a proxy: %v", err)
	}
}
