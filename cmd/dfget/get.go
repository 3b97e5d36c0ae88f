package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
)

const getLong = `dfget URL -O FILE downloads a file through the agent on this host, so that it leaves
its server once however many hosts download it. Without an agent, and for a file
that hosts cannot share, it comes straight from the server, which dfget then says.

URL begins with http:// or https://, is an object s3://BUCKET/KEY of S3 or a store that
speaks as it does, or a blob of a registry, oci://REGISTRY/REPOSITORY@DIGEST. FILE appears when all of it is there and right;
until then the bytes are in .FILE.dfget beside it, where a second call finds them
and goes on. "-" is the standard output. With --recursive URL is a folder, of an object
store or as a web server lists it in HTML, and FILE becomes a folder with what is in it.

The exit code is 0 when the file is there, and else
  1  for any other reason, such as a wrong flag
  3  when there is no such file
  4  when the server wants other credentials
  5  when the content is not what --digest says
  6  when the server, or all who have the file, did not give it in time
  7  when the file cannot be written`

// Exit codes of a download.
const (
	exitNotFound     = 3
	exitUnauthorized = 4
	exitDigest       = 5
	exitUnavailable  = 6
	exitOutput       = 7
)

// download is one call of dfget.
type download struct {
	file.Spec
	output string // "-": out
	socket string // "": no agent
	span   string // of --range
	limit  *bucket.Bucket
	access registryFlags
	s3     s3Flags
	given  string // the URL as it was given, if that is another one
	show   progress
	out    io.Writer
	log    io.Writer // notes, for people

	begun  int    // how often it was begun anew
	direct string // why no agent is asked; "": one is
	result result
}

// result is what --json prints.
type result struct {
	URL    string        `json:"url"` // less what may be secret
	File   string        `json:"file"`
	Size   int64         `json:"size"`
	Digest digest.Digest `json:"digest,omitempty"`
	Took   float64       `json:"seconds"`
	From   agent.From    `json:"from"`             // bytes
	Direct string        `json:"direct,omitempty"` // why no agent brought it
}

// getFlags makes cmd download what its argument names.
func getFlags(cmd *cobra.Command) {
	var d download
	var headers []string
	var sum, rate string
	var quiet, asJSON, noAgent bool
	var t tree
	cmd.Use, cmd.Long = "dfget URL", getLong
	f := cmd.Flags()
	f.StringVarP(&d.output, "output", "O", "", `where to put the file; "-" for the standard output (default: here, by its name in the URL)`)
	f.StringVar(&sum, "digest", "", "what the content must match, such as sha256:…; hosts then share it by that, whatever its URL")
	f.StringArrayVarP(&headers, "header", "H", nil, `header of the request to the server, "Name: value"; may be repeated`)
	f.StringVar(&d.span, "range", "", `only these bytes, "FIRST-LAST", "FIRST-" or "-COUNT"; they come straight from the server`)
	f.StringVar(&d.Tag, "tag", "", "tells this file from others of the same URL")
	f.StringSliceVar(&d.Filter, "filter", nil, "parameters of the URL's query that do not tell files apart, such as token,ts")
	f.StringVar(&rate, "rate-limit", "", "bytes per second that dfget takes, such as 20MiB")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress, and say only what is wrong")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	f.StringVar(&d.socket, "agent", agent.Socket, "socket of the agent")
	f.BoolVar(&noAgent, "no-agent", false, "go straight to the server")
	f.StringVar(&d.access.ca, "ca", "", "PEM file with CAs of the server, besides the system's, where dfget goes straight to it; the agent has files_ca")
	d.access.add(cmd)
	d.s3.add(cmd)
	t.add(cmd)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && !strings.Contains(args[0], "://") {
			return fmt.Errorf("unknown command %q, nor is it a URL\nusage: %s (dfget --help says more)", args[0], cmd.UseLine())
		}
		return daemon.Args(cobra.MaximumNArgs(1))(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if len(args) == 0 {
			return cmd.Help()
		}
		d.URL, d.Digest, d.out, d.log = args[0], digest.Digest(sum), cmd.OutOrStdout(), cmd.ErrOrStderr()
		if d.Header, err = parseHeaders(headers); err != nil {
			return err
		}
		if d.limit, err = parseRate(rate); err != nil {
			return err
		}
		if noAgent {
			d.direct = "as --no-agent says"
		}
		if quiet {
			d.log = io.Discard
		}
		if terminal.Is(d.log) {
			d.show.To = d.log
		}
		if t.recursive {
			return exit(t.run(cmd.Context(), &d, asJSON, quiet))
		}
		if err := t.alone(); err != nil {
			return err
		}
		if err := d.run(cmd.Context()); err != nil {
			return exit(err)
		}
		return d.report(asJSON, quiet)
	}
}

// exit gives an error the exit code that it has.
func exit(err error) error {
	code := 1
	var known *agent.Error
	var down *origin.UnavailableError
	var coded daemon.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded):
		code = coded.Code
	case errors.As(err, &known):
		code = map[agent.Code]int{
			agent.NotFound: exitNotFound, agent.Unauthorized: exitUnauthorized, agent.Digest: exitDigest,
			agent.Unavailable: exitUnavailable, agent.Changed: exitUnavailable,
		}[known.Code]
		code = max(code, 1)
	case errors.Is(err, origin.ErrNotFound):
		code = exitNotFound
	case errors.Is(err, origin.ErrUnauthorized):
		code = exitUnauthorized
	case errors.Is(err, origin.ErrDigest):
		code = exitDigest
	case errors.Is(err, errOutput):
		code = exitOutput
	case errors.As(err, &down), errors.Is(err, agent.ErrCut), errors.Is(err, origin.ErrChanged):
		code = exitUnavailable
	}
	return daemon.ExitError{Code: code, Err: err}
}

func parseHeaders(list []string) (http.Header, error) {
	h := http.Header{}
	for _, line := range list {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, errors.New(`--header must be "Name: value"`) // which may be a secret
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// leastRate is the least that is taken for a limit and not for a slip.
const leastRate = 16 << 10

func parseRate(s string) (*bucket.Bucket, error) {
	if s == "" || s == "0" {
		return nil, nil
	}
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		number, ok := strings.CutSuffix(s, unit)
		if n, err := strconv.ParseInt(number, 10, 32); ok && err == nil && n > 0 && n<<(10*(i+1)) >= leastRate {
			return bucket.New(n << (10 * (i + 1))), nil
		}
	}
	return nil, fmt.Errorf("--rate-limit %q is no number of bytes per second such as 512KiB or 20MiB", s)
}

// target returns where the file is to be.
func (d *download) target() (string, error) {
	if d.output == "" {
		u, err := url.Parse(d.URL)
		if err != nil {
			return "", errors.New("the URL cannot be read")
		}
		name := path.Base(u.Path)
		if name == "/" || name == "." || strings.ContainsAny(name, "/\x00") {
			return "", errors.New("the URL names no file: say where to put it with -O")
		}
		if _, err := os.Lstat(name); err == nil {
			return "", fmt.Errorf("%w: %s is there: say -O %[2]s to replace it", errOutput, name)
		}
		d.output = name
	}
	if fi, err := os.Stat(d.output); err == nil && fi.IsDir() {
		return "", fmt.Errorf("%w: %s is a folder: name a file with -O", errOutput, d.output)
	}
	return d.output, nil
}

// want returns the digest that the file must match, "" if none is known.
func (d *download) want() (digest.Digest, error) {
	want := d.Digest
	if _, of, ok := strings.Cut(d.URL, "@"); ok && want == "" && strings.HasPrefix(d.URL, "oci://") {
		want = digest.Digest(of)
	}
	if want != "" && want.Validate() != nil {
		return "", fmt.Errorf("%q is no digest such as sha256:… with 64 hexadecimal digits", want)
	}
	return want, nil
}

func (d *download) run(ctx context.Context) (err error) {
	to, err := d.target()
	if err != nil {
		return err
	}
	began := time.Now()
	defer d.show.Show("")
	if d.span != "" {
		d.direct = "since ranges are not shared"
	}
	want, err := d.want()
	if err != nil {
		return err
	}
	if err := d.sign(ctx); err != nil {
		return err
	}
	p, err := openPart(to, d.out, want)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	d.show.name = path.Base(to)
	if err := d.fetch(ctx, p); err != nil {
		return err
	}
	if err := p.commit(); err != nil {
		return err
	}
	d.result.URL, d.result.File, d.result.Size, d.result.Took, d.result.Direct = shown(or(d.given, d.URL)), to, p.size, time.Since(began).Seconds(), d.direct
	return nil
}

// shown is a URL without what may be secret in it.
func shown(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
