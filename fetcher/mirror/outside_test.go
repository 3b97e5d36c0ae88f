package mirror_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// fetch gets a URL.
func (f *front) fetch(c *http.Client, url string) reply {
	f.Helper()
	resp, err := c.Get(url)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, body, err}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	want := data(1, mib)
	d := reg.AddBlob("a", want)
	// It says so itself: of names of the loopback it is not known which they speak.
	f := open(t, "", map[string]string{strings.ReplaceAll(reg.Host(), ":", "_") + "_": fmt.Sprintf("server = %q\n", reg.URL())})
	// Go's transport does not use proxies for 127.0.0.1: so by hand.
	get := func(target string) reply {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return reply{err: err}
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return reply{resp.StatusCode, resp.Header, body, err}
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %v", r.Method, r.URL, strings.HasPrefix(r.Header.Get("Via"), "1.1 dfsnapshotter-"))
	}))
	defer site.Close()
	f.want(get(site.URL+"/page?x=1"), 200, []byte("GET /page?x=1 true"))
	f.want(get(reg.URL()+blobPath("a", d)), 200, want)
	f.want(get(reg.URL()+blobPath("a", d)), 200, want)
	if n := gets(reg, d); n != 1 {
		t.Errorf("the registry was asked %d times", n)
	}
	f.refused(get("http://169.254.169.254/latest/meta-data/"), http.StatusForbidden, "DENIED")
	f.refused(get("http://[fe80::1]/"), http.StatusForbidden, "DENIED")
	f.refused(get("http://0xA9FEA9FE/"), http.StatusForbidden, "DENIED")
	f.refused(get("ftp://site/"), http.StatusBadRequest, "UNSUPPORTED")
	f.refused(get(f.url+"/v2/a/tags/list"), http.StatusLoopDetected, "UNSUPPORTED")
	f.refused(get("http://no.such.host.invalid/"), http.StatusBadGateway, "UNAVAILABLE")
}

// TestBehindProxy has a proxy of its own to go through: names are that one's to resolve,
// but it is not asked for addresses that a client may not be led to, however they are
// written.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusTeapot)
	}))
	defer proxy.Close()
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := openBehind(t, http.ProxyURL(via), "", nil)
	status := func(request string) int {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	for _, host := range []string{
		"169.254.169.254", "169.254.169.254.", "2852039166", "0xA9FEA9FE", "0xa9.0376.43518", "[::ffff:a9fe:a9fe]", "[fe80::1]", "100.100.100.200", "[fd00:ec2::254]",
	} {
		for _, request := range []string{"GET http://" + host + "/latest/meta-data/", "CONNECT " + host + ":80"} {
			if got := status(request); got != http.StatusForbidden {
				t.Errorf("%s: %d", request, got)
			}
		}
	}
	if len(asked) > 0 {
		t.Fatalf("the proxy was asked: %s", <-asked)
	}
	for request, want := range map[string]int{"GET http://metadata.example/": http.StatusTeapot, "CONNECT metadata.example:80": http.StatusBadGateway} {
		if got := status(request); got != want {
			t.Errorf("%s: %d", request, got)
		}
		method, _, _ := strings.Cut(request, " ")
		if got := <-asked; !strings.HasPrefix(got, method+" metadata.example") {
			t.Errorf("the proxy was asked: %s", got)
		}
	}
}

func TestTunnel(t *testing.T) {
	t.Parallel()
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer site.Close()
	f := open(t, "", nil)
	c := site.Client()
	tr := c.Transport.(*http.Transport)
	tr.Proxy = func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: f.addr}, nil }
	f.want(f.fetch(c, site.URL), 200, []byte("hello"))
	tr.CloseIdleConnections()
	eventually(t, func() error {
		if n := f.metric("dfsnapshotter_mirror_requests_total", "kind", "tunnel", "code", "200"); n != 1 {
			return fmt.Errorf("%.0f tunnels have ended", n)
		}
		return nil
	})
	for _, target := range []string{"https://169.254.169.254/", "https://[fe80::1]/"} {
		if r := f.fetch(c, target); r.err == nil || !strings.Contains(r.err.Error(), "Forbidden") {
			t.Errorf("%s: %v", target, r.err)
		}
	}
	if r := f.fetch(c, "https://no.such.host.invalid/"); r.err == nil || !strings.Contains(r.err.Error(), "Bad Gateway") {
		t.Errorf("an unknown host: %v", r.err)
	}
}
