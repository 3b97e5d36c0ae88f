package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Load reads a file over the defaults. A key that the configuration does not
// have is an error, which says where it stands.
func (p *Program[C]) Load(path string) (C, error) {
	c := p.Default()
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c); err != nil {
		return c, p.locate(path, err)
	}
	if err := p.Validate(c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
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
		return fmt.Errorf("%s:%d:%d: %w", path, line, column, err)
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
}
