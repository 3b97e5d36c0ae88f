package origin

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

const (
	helperTimeout = 30 * time.Second
	// dockerHubKey is the name that docker login stores Docker Hub under.
	dockerHubKey = "https://index.docker.io/v1/"
	// identityUser is the user name by which helpers say that the secret is
	// an identity token.
	identityUser = "<token>"
)

// DockerConfig finds credentials in a docker config.json and by the
// credential helpers that it names. The file may be missing; it is read again
// when it changes.
type DockerConfig struct {
	path string
	file watched[dockerFile]
}

// NewDockerConfig returns the credentials of the config.json at path.
func NewDockerConfig(path string) *DockerConfig { return &DockerConfig{path: path} }

// dockerFile is the part of config.json that is about credentials.
type dockerFile struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredHelpers map[string]string     `json:"credHelpers"`
	CredsStore  string                `json:"credsStore"`
}

type dockerAuth struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Lookup returns what the helpers say, then what the file holds, each with
// the entry for the longest part of the repository's name first. The general
// helper is asked where those for single hosts know nothing.
func (d *DockerConfig) Lookup(ctx context.Context, r Repo) ([]Credential, error) {
	file, err := d.file.read(d.path, parseDocker)
	if err != nil || file == nil {
		return nil, err
	}
	var found []Credential
	var faults []error
	ask := func(helper, server string) {
		c, err := runHelper(ctx, helper, server)
		if err != nil {
			faults = append(faults, err)
		} else if !c.empty() {
			found = append(found, c)
		}
	}
	for _, key := range matchingKeys(file.CredHelpers, r) {
		ask(file.CredHelpers[key], key)
	}
	if file.CredsStore != "" && len(found) == 0 {
		ask(file.CredsStore, storeKey(r.Host))
	}
	for _, key := range matchingKeys(file.Auths, r) {
		c, err := file.Auths[key].credential()
		if err != nil {
			faults = append(faults, fmt.Errorf("entry %q of %s: %w", key, d.path, err))
		} else if !c.empty() {
			c.Source = "entry " + key + " of " + d.path
			found = append(found, c)
		}
	}
	return found, errors.Join(faults...)
}

func parseDocker(data []byte) (*dockerFile, error) {
	var f dockerFile
	if err := json.Unmarshal(data, &f); err != nil {
		// The cause may quote what stands in the file.
		return nil, errors.New("not a docker config: no valid JSON of that form")
	}
	return &f, nil
}

func (a dockerAuth) credential() (Credential, error) {
	c := Credential{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth == "" {
		return c, nil
	}
	pair, err := base64.StdEncoding.DecodeString(a.Auth)
	user, password, ok := strings.Cut(string(pair), ":")
	if err != nil || !ok {
		return c, errors.New(`"auth" is not the base64 of user:password`)
	}
	c.Username, c.Password = user, strings.Trim(password, "\x00")
	return c, nil
}

func storeKey(host string) string {
	if host == "docker.io" {
		return dockerHubKey
	}
	return host
}

// matchingKeys returns the keys that stand for a repository, a host or a part
// of the repository's path: the longest first.
func matchingKeys[V any](m map[string]V, r Repo) []string {
	name := r.String()
	var keys []string
	for key := range m {
		k := plainKey(key)
		if k == r.Host || k == name || strings.HasPrefix(name, k+"/") && strings.HasPrefix(k, r.Host+"/") {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		if n := len(plainKey(b)) - len(plainKey(a)); n != 0 {
			return n
		}
		return strings.Compare(b, a)
	})
	return keys
}

// plainKey strips a key of what docker login adds: "https://host/v1/" is
// "host", and Docker Hub's several names are one.
func plainKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	for _, version := range []string{"/v1", "/v2"} {
		key = strings.TrimSuffix(key, version)
	}
	host, path, _ := strings.Cut(key, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	if path != "" {
		return host + "/" + path
	}
	return host
}

// runHelper asks docker-credential-NAME for the credential of a server.
func runHelper(ctx context.Context, name, server string) (Credential, error) {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return Credential{}, fmt.Errorf("credential helper %q has no usable name", name)
	}
	program := "docker-credential-" + name
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	got, err := client.Get(func(args ...string) client.Program {
		return &process{exec.CommandContext(ctx, program, args...)}
	}, server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return Credential{}, nil
	case err != nil:
		return Credential{}, fmt.Errorf("%s get %s: %s", program, server, oneLine(err.Error()))
	}
	c := Credential{Username: got.Username, Password: got.Secret, Source: "credential helper " + program}
	if got.Username == identityUser {
		c = Credential{IdentityToken: got.Secret, Source: c.Source}
	}
	return c, nil
}
