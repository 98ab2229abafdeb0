using System;
using Microsoft.EntityFrameworkCore.Migrations;
using Npgsql.EntityFrameworkCore.PostgreSQL.Metadata;

#nullable disable

namespace Espalier.Runs.Migrations.Postgres;

/// <inheritdoc />
public partial class First : Migration
{
    /// <inheritdoc />
    protected override void Up(MigrationBuilder migrationBuilder)
    {
        migrationBuilder.CreateTable(
            name: "runs",
            columns: table => new
            {
                Id = table.Column<string>(type: "character varying(32)", maxLength: 32, nullable: false),
                Command = table.Column<string>(type: "text", nullable: false),
                Title = table.Column<string>(type: "text", nullable: false),
                Model = table.Column<string>(type: "text", nullable: false),
                Plan = table.Column<string>(type: "text", nullable: false),
                Words = table.Column<string>(type: "text", nullable: false),
                WorkingFolder = table.Column<string>(type: "text", nullable: false),
                Version = table.Column<string>(type: "text", nullable: false),
                Machine = table.Column<string>(type: "text", nullable: false),
                Seed = table.Column<long>(type: "bigint", nullable: true),
                State = table.Column<string>(type: "character varying(16)", maxLength: 16, nullable: false),
                Started = table.Column<DateTime>(type: "timestamp with time zone", nullable: false),
                Ended = table.Column<DateTime>(type: "timestamp with time zone", nullable: true),
                ProcessId = table.Column<int>(type: "integer", nullable: false),
                ProcessMark = table.Column<string>(type: "text", nullable: false),
                Heartbeat = table.Column<DateTime>(type: "timestamp with time zone", nullable: false),
                ExitCode = table.Column<int>(type: "integer", nullable: true),
                Outcome = table.Column<string>(type: "text", nullable: false),
                Error = table.Column<string>(type: "text", nullable: false),
                Folder = table.Column<string>(type: "text", nullable: false),
                ResumedFrom = table.Column<string>(type: "text", nullable: false),
                Progress = table.Column<double>(type: "double precision", nullable: true),
                Doing = table.Column<string>(type: "text", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_runs", x => x.Id);
            });

        migrationBuilder.CreateTable(
            name: "artefacts",
            columns: table => new
            {
                RunId = table.Column<string>(type: "character varying(32)", nullable: false),
                Path = table.Column<string>(type: "text", nullable: false),
                Name = table.Column<string>(type: "text", nullable: false),
                Kind = table.Column<string>(type: "text", nullable: false),
                Bytes = table.Column<long>(type: "bigint", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_artefacts", x => new { x.RunId, x.Path });
                table.ForeignKey(
                    name: "FK_artefacts_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateTable(
            name: "log",
            columns: table => new
            {
                Id = table.Column<long>(type: "bigint", nullable: false)
                    .Annotation("Npgsql:ValueGenerationStrategy", NpgsqlValueGenerationStrategy.IdentityByDefaultColumn),
                RunId = table.Column<string>(type: "character varying(32)", nullable: false),
                Time = table.Column<DateTime>(type: "timestamp with time zone", nullable: false),
                Level = table.Column<string>(type: "text", nullable: false),
                Text = table.Column<string>(type: "text", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_log", x => x.Id);
                table.ForeignKey(
                    name: "FK_log_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateTable(
            name: "metrics",
            columns: table => new
            {
                Id = table.Column<long>(type: "bigint", nullable: false)
                    .Annotation("Npgsql:ValueGenerationStrategy", NpgsqlValueGenerationStrategy.IdentityByDefaultColumn),
                RunId = table.Column<string>(type: "character varying(32)", nullable: false),
                Name = table.Column<string>(type: "text", nullable: false),
                Step = table.Column<long>(type: "bigint", nullable: false),
                Time = table.Column<DateTime>(type: "timestamp with time zone", nullable: false),
                Value = table.Column<double>(type: "double precision", nullable: true)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_metrics", x => x.Id);
                table.ForeignKey(
                    name: "FK_metrics_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateTable(
            name: "tags",
            columns: table => new
            {
                RunId = table.Column<string>(type: "character varying(32)", nullable: false),
                Tag = table.Column<string>(type: "text", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_tags", x => new { x.RunId, x.Tag });
                table.ForeignKey(
                    name: "FK_tags_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateIndex(
            name: "IX_log_RunId_Id",
            table: "log",
            columns: new[] { "RunId", "Id" });

        migrationBuilder.CreateIndex(
            name: "IX_metrics_RunId_Name_Id",
            table: "metrics",
            columns: new[] { "RunId", "Name", "Id" });

        migrationBuilder.CreateIndex(
            name: "IX_runs_Started",
            table: "runs",
            column: "Started");

        migrationBuilder.CreateIndex(
            name: "IX_runs_State",
            table: "runs",
            column: "State");

        migrationBuilder.CreateIndex(
            name: "IX_tags_Tag",
            table: "tags",
            column: "Tag");
    }

    /// <inheritdoc />
    protected override void Down(MigrationBuilder migrationBuilder)
    {
        migrationBuilder.DropTable(
            name: "artefacts");

        migrationBuilder.DropTable(
            name: "log");

        migrationBuilder.DropTable(
            name: "metrics");

        migrationBuilder.DropTable(
            name: "tags");

        migrationBuilder.DropTable(
            name: "runs");
    }
}
