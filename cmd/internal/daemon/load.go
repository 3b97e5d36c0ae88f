package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Load reads a file over the defaults. A key that the configuration does not
// have is an error, which says where it stands.
func (p *Program[C]) Load(path string) (C, error) {
	c := p.Default()
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("configuration file: %w", err)
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c); err != nil {
		return c, p.locate(path, err)
	}
	if err := p.Validate(c); err != nil {
		return c, fmt.Errorf("%s: %s", path, strings.ReplaceAll(err.Error(), "\n", "\n"+path+": "))
	}
	return c, nil
}

// locate says where in the file an error is.
func (p *Program[C]) locate(path string, err error) error {
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var errs []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q; `%s config default` lists all keys", path, line, strings.Join(e.Key(), "."), p.Name))
		}
		return errors.Join(errs...)
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		return fmt.Errorf("%s:%d:%d: %s", path, line, column, describe(wrong))
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
}

// describe says what is wrong without the names of Go's types and fields, which
// mean nothing to who wrote the file.
func describe(e *toml.DecodeError) string {
	what := strings.TrimPrefix(e.Error(), "toml: ")
	_, want, ok := strings.Cut(what, " of type ")
	if !ok {
		return what
	}
	switch {
	case want == "string":
		want = "a string, in quotes"
	case want == "bool":
		want = "true or false"
	case strings.HasPrefix(want, "int"):
		want = "a whole number"
	case strings.HasPrefix(want, "[]"):
		want = "a list, in brackets"
	default:
		want = "a section"
	}
	return strings.Join(e.Key(), ".") + " must be " + want
}

// IsHostPort reports whether s is "host:port" to listen on: the host may be
// missing, and the port is a number.
func IsHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// IsDialable reports whether s is "host:port" as somebody else can dial it.
func IsDialable(s string) bool {
	host, port, _ := net.SplitHostPort(s)
	ip := net.ParseIP(host)
	return IsHostPort(s) && host != "" && strings.Trim(port, "0") != "" && (ip == nil || !ip.IsUnspecified())
}
