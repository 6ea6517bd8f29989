"""Sessions of users that logged in, and who changed what."""

import peewee as pw


def up(migrator, db):
    class Table(pw.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class User(Table):
        class Meta:
            table_name = "users"

    class Revision(Table):
        table = pw.TextField(primary_key=True, column_name="table_name")
        revision = pw.BigIntegerField(default=0)

        class Meta:
            table_name = "revisions"

    class Session(Table):
        digest = pw.TextField(unique=True)
        user = pw.ForeignKeyField(User, on_delete="CASCADE")
        expires_at = pw.BigIntegerField(index=True)
        created_at = pw.BigIntegerField()

        class Meta:
            table_name = "sessions"

    class Audit(Table):
        at = pw.BigIntegerField()
        user_id = pw.IntegerField(null=True)
        user_name = pw.TextField()
        key_id = pw.IntegerField(null=True)
        address = pw.TextField(null=True)
        request_id = pw.TextField(null=True)
        action = pw.TextField()
        entity = pw.TextField()
        entity_id = pw.TextField(null=True)
        changes = pw.TextField()

        class Meta:
            table_name = "audits"
            indexes = ((("at", "id"), False), (("entity", "entity_id"), False))

    db.create_tables((Session, Audit))
    Revision.insert(table="sessions", revision=1).execute()
