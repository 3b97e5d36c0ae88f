package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"
)

const (
	pluginTimeout  = time.Minute // as in kubelet
	providerGroup  = credentialprovider.GroupName
	maxPluginCache = 1024
)

// KubeletPlugins runs kubelet's image credential provider plugins. A plugin
// that insists on the service account of a pod is left out, since no pod is
// known here.
type KubeletPlugins struct {
	path string
	bin  string
	file watched[kubeletFile]
	run  chan struct{} // holds a value while a plugin is asked, so that many ask once

	mu    sync.Mutex
	cache map[pluginKey]pluginEntry // guarded by mu
}

// NewKubeletPlugins returns the plugins that the CredentialProviderConfig at
// path names, which lie in the directory bin: the values of kubelet's
// --image-credential-provider-config and --image-credential-provider-bin-dir.
// The file may be missing; it is read again when it changes.
func NewKubeletPlugins(path, bin string) *KubeletPlugins {
	return &KubeletPlugins{path: path, bin: bin, run: make(chan struct{}, 1), cache: map[pluginKey]pluginEntry{}}
}

type kubeletFile = kubeletconfig.CredentialProviderConfig

// pluginKey says for what a plugin's answer holds.
type pluginKey struct {
	plugin string
	kind   credentialprovider.PluginCacheKeyType
	name   string // the image's, its registry's, or ""
}

type pluginEntry struct {
	auth  map[string]credentialprovider.AuthConfig
	until time.Time
}

// Lookup asks each plugin that matches the repository.
func (k *KubeletPlugins) Lookup(ctx context.Context, r Repo) ([]Credential, error) {
	file, err := k.file.read(k.path, parseKubelet)
	if err != nil || file == nil {
		return nil, err
	}
	var found []Credential
	var faults []error
	for _, p := range file.Providers {
		if !slices.ContainsFunc(p.MatchImages, func(glob string) bool { return matchImage(glob, r) }) || needsPod(p) {
			continue
		}
		auth, err := k.ask(ctx, p, r)
		if err != nil {
			faults = append(faults, fmt.Errorf("credential provider plugin %s: %w", p.Name, err))
			continue
		}
		found = append(found, authFor(p.Name, auth, r)...)
	}
	return found, errors.Join(faults...)
}

// authFor returns the entries of a plugin's answer that match a repository,
// the most specific first.
func authFor(plugin string, auth map[string]credentialprovider.AuthConfig, r Repo) []Credential {
	var globs []string
	for glob := range auth {
		if matchImage(plainKey(glob), r) {
			globs = append(globs, glob)
		}
	}
	slices.SortFunc(globs, func(a, b string) int { return strings.Compare(b, a) })
	var out []Credential
	for _, glob := range globs {
		out = append(out, Credential{Username: auth[glob].Username, Password: auth[glob].Password, Source: "credential provider plugin " + plugin})
	}
	return out
}

func needsPod(p kubeletconfig.CredentialProvider) bool {
	t := p.TokenAttributes
	return t != nil && t.RequireServiceAccount != nil && *t.RequireServiceAccount
}

// parseKubelet reads a CredentialProviderConfig in YAML or JSON.
func parseKubelet(data []byte) (*kubeletFile, error) {
	var f kubeletFile
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	var faults []error
	group, _, _ := strings.Cut(f.APIVersion, "/")
	if f.Kind != "CredentialProviderConfig" || group != kubeletconfig.GroupName {
		faults = append(faults, fmt.Errorf("it is a %s of %q, want a CredentialProviderConfig of %s", f.Kind, f.APIVersion, kubeletconfig.GroupName))
	}
	for _, p := range f.Providers {
		switch {
		case p.Name == "" || p.Name != filepath.Base(p.Name) || p.Name == "." || p.Name == "..":
			faults = append(faults, fmt.Errorf("provider %q: the name is not one of a program", p.Name))
		case p.APIVersion != providerGroup+"/v1" && p.APIVersion != providerGroup+"/v1beta1":
			faults = append(faults, fmt.Errorf("provider %s: apiVersion %q, want %s/v1 or v1beta1", p.Name, p.APIVersion, providerGroup))
		}
	}
	return &f, errors.Join(faults...)
}

// ask returns what a plugin says of a repository, from memory if that holds.
func (k *KubeletPlugins) ask(ctx context.Context, p kubeletconfig.CredentialProvider, r Repo) (map[string]credentialprovider.AuthConfig, error) {
	if auth, ok := k.cached(p.Name, r); ok {
		return auth, nil
	}
	select {
	case k.run <- struct{}{}:
		defer func() { <-k.run }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if auth, ok := k.cached(p.Name, r); ok {
		return auth, nil
	}
	resp, err := k.exec(ctx, p, r)
	if err != nil {
		return nil, err
	}
	key, err := cacheKey(p.Name, resp.CacheKeyType, r)
	if err != nil {
		return nil, err
	}
	life := resp.CacheDuration
	if life == nil {
		life = p.DefaultCacheDuration
	}
	if life != nil && life.Duration > 0 {
		k.keep(key, pluginEntry{resp.Auth, time.Now().Add(life.Duration)})
	}
	return resp.Auth, nil
}

func cacheKey(plugin string, kind credentialprovider.PluginCacheKeyType, r Repo) (pluginKey, error) {
	key := pluginKey{plugin: plugin, kind: kind}
	switch kind {
	case credentialprovider.ImagePluginCacheKeyType:
		key.name = r.String()
	case credentialprovider.RegistryPluginCacheKeyType:
		key.name = r.Host
	case credentialprovider.GlobalPluginCacheKeyType:
	default:
		return key, fmt.Errorf("it answered with the cacheKeyType %q, want Image, Registry or Global", kind)
	}
	return key, nil
}

func (k *KubeletPlugins) cached(plugin string, r Repo) (map[string]credentialprovider.AuthConfig, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range []pluginKey{
		{plugin, credentialprovider.ImagePluginCacheKeyType, r.String()},
		{plugin, credentialprovider.RegistryPluginCacheKeyType, r.Host},
		{plugin, credentialprovider.GlobalPluginCacheKeyType, ""},
	} {
		if e, ok := k.cache[key]; ok && time.Now().Before(e.until) {
			return e.auth, true
		}
	}
	return nil, false
}

func (k *KubeletPlugins) keep(key pluginKey, e pluginEntry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.cache) >= maxPluginCache {
		clear(k.cache)
	}
	k.cache[key] = e
}

// exec runs a plugin, which reads a request and prints a response.
func (k *KubeletPlugins) exec(ctx context.Context, p kubeletconfig.CredentialProvider, r Repo) (*credentialprovider.CredentialProviderResponse, error) {
	request, err := json.Marshal(credentialprovider.CredentialProviderRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: p.APIVersion, Kind: "CredentialProviderRequest"},
		Image:    r.String(),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(k.bin, p.Name), p.Args...)
	cmd.Env = cmd.Environ()
	for _, e := range p.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	run := &process{cmd}
	run.Input(bytes.NewReader(request))
	out, err := run.Output()
	if err != nil {
		return nil, err // what it printed may hold secrets
	}
	var resp credentialprovider.CredentialProviderResponse
	if json.Unmarshal(out, &resp) != nil || resp.Kind != "CredentialProviderResponse" || resp.APIVersion != p.APIVersion {
		return nil, fmt.Errorf("its answer is not a CredentialProviderResponse of %s", p.APIVersion)
	}
	return &resp, nil
}

// matchImage tells whether a repository matches a kubelet pattern
// "[glob.in.domain][:port][/path]": the domains have equally many parts that
// match one by one, the path is a prefix, and a port in the pattern is the
// repository's.
func matchImage(pattern string, r Repo) bool {
	host, path, _ := strings.Cut(pattern, "/")
	globName, globPort := splitPort(host)
	name, port := splitPort(r.Host)
	if globPort != "" && globPort != port || !strings.HasPrefix(r.Path, path) {
		return false
	}
	globs, parts := strings.Split(globName, "."), strings.Split(name, ".")
	if len(globs) != len(parts) {
		return false
	}
	for i, glob := range globs {
		if ok, err := filepath.Match(glob, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func splitPort(host string) (name, port string) {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return name, port
	}
	return host, ""
}
