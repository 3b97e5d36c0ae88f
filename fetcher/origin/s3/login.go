package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// loginFor is how long a cloud may take to give a machine its credentials.
const loginFor = 10 * time.Second

// login finds credentials. Without any the store is asked anonymously, but not if there
// is a role that should give some: who has one does not want to be nobody.
func login(ctx context.Context, role bool) (keys *credentials.Credentials, anonymous bool, err error) {
	for _, source := range []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}} {
		keys := credentials.New(bounded{source})
		if value, err := keys.GetWithContext(from(ctx)); err == nil && value.AccessKeyID != "" {
			return keys, false, nil
		}
	}
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		role = role || os.Getenv(name) != ""
	}
	if !role {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), true, nil
	}
	keys = credentials.New(bounded{&credentials.IAM{}})
	if _, err := keys.GetWithContext(from(ctx)); err != nil {
		return nil, false, fmt.Errorf("credentials of the role: %w", err)
	}
	return keys, false, nil
}

func from(ctx context.Context) *credentials.CredContext {
	return &credentials.CredContext{Client: http.DefaultClient, Context: ctx}
}

// bounded is a source of credentials that ends with who asks, and after loginFor. The
// client asks it again when credentials expire, and then sets no limit of its own.
type bounded struct{ credentials.Provider }

func (b bounded) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	asked := c.Context
	if asked == nil {
		asked = context.Background()
	}
	ctx, cancel := context.WithTimeout(asked, loginFor)
	defer cancel()
	within := *c
	within.Context = ctx
	value, err := b.Provider.RetrieveWithCredContext(&within)
	switch {
	case err == nil:
		return value, nil
	case asked.Err() != nil:
		return value, asked.Err()
	case ctx.Err() != nil:
		return value, &origin.UnavailableError{Err: fmt.Errorf("none for %s: %w", loginFor, err)}
	case errors.As(err, new(*url.Error)): // there was no answer
		return value, &origin.UnavailableError{Err: err}
	}
	return value, fmt.Errorf("%w: %w", origin.ErrUnauthorized, err)
}
