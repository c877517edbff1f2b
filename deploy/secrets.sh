#!/usr/bin/env bash
# Makes a folder of secrets for compose.yaml and for Kubernetes: ./secrets, or the folder that is named. It never replaces one that is there.
#
#   ./secrets.sh [FOLDER]
#
# POSTGRES and RABBITMQ are host:port of the servers (postgres:5432, rabbitmq:5672).
set -euo pipefail
umask 077

folder=${1:-$(dirname "$0")/secrets}
postgres=${POSTGRES:-postgres:5432}
rabbitmq=${RABBITMQ:-rabbitmq:5672}
modules=(carts catalog inventory notifications orders payments shipping users)

mkdir "$folder"
random() { openssl rand -hex 24; }
secret=$(random) admin=$(random)

echo "POSTGRES_PASSWORD=$admin" > "$folder/postgres.env"
cat > "$folder/migrate.env" <<END
BANYAN_DATABASE_POSTGRES_SECRET=$secret
BANYAN_DATABASE_POSTGRES_ADMIN_DSN=postgres://postgres:$admin@$postgres/banyan
END

# A user of the broker reads the queues of its own modules alone, and sends to all: as internal/bus/rabbit.Permissions says.
users='' permissions=''
process() { # name, modules...
  local name=$1 password own='' module
  shift
  password=$(random)
  for module in "$@"; do
    own="$own|banyan\\\\.$module|banyan\\\\.$module\\\\.requests"
  done
  cat > "$folder/$name.env" <<END
BANYAN_DATABASE_POSTGRES_SECRET=$secret
BANYAN_BUS_RABBITMQ_URL=amqp://$name:$password@$rabbitmq/banyan
END
  printf 'username=%s\npassword=%s\n' "$name" "$password" > "$folder/rabbitmq-$name.env"
  users="$users${users:+,}
    {\"name\": \"$name\", \"password\": \"$password\", \"tags\": \"\"}"
  permissions="$permissions${permissions:+,}
    {\"vhost\": \"banyan\", \"user\": \"$name\",
     \"configure\": \"^(banyan|banyan\\\\.events$own)\$\",
     \"write\": \"^(amq\\\\.default|banyan|banyan\\\\.events$own)\$\",
     \"read\": \"^(banyan$own)\$\"}"
}
process shop "${modules[@]}"
for module in "${modules[@]}"; do
  process "$module" "$module"
done
echo "BANYAN_ADMIN_PASSWORD=$(random)" >> "$folder/shop.env" # of admin@banyan.local, at the first start

cat > "$folder/rabbitmq.json" <<END
{
  "vhosts": [{"name": "banyan"}],
  "users": [$users
  ],
  "permissions": [$permissions
  ]
}
END
chmod 644 "$folder/rabbitmq.json" # the broker in its container is another user; the folder keeps all others out
echo "made $folder"
